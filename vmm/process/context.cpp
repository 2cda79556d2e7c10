#include "vmm/process/context.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <chrono>
#include <cstring>
#include <utility>

#include "arch/relax.hpp"

namespace ramet::vmm::process {
namespace {

// Words that both sides use. seq_cst: each side writes its word, then looks whether the other sleeps; the other says
// so, then looks at the word. The stub's half of each pair is a full barrier.
std::atomic_ref<std::uint32_t> word(std::byte* page, std::size_t at) {
  return std::atomic_ref(*reinterpret_cast<std::uint32_t*>(page + at));
}

long futex(std::byte* page, std::size_t at, int operation, std::uint32_t value, const timespec* timeout) {
  return ::syscall(SYS_futex, page + at, operation, value, timeout, nullptr, 0);
}

// How often `patient` is asked. By the clock: the process may wake us, or write the words that we wait for, as often as
// it likes.
constexpr std::chrono::milliseconds kSlice{100};
constexpr timespec kSliceTime{0, std::chrono::nanoseconds(kSlice).count()};

// Asks `patient` in each slice of a wait whether to wait on.
class Patience {
 public:
  explicit Patience(const std::function<bool()>& patient) : patient_(patient) {}
  // `ask`: now, whenever it was asked last.
  bool lasts(bool ask) {
    const auto now = std::chrono::steady_clock::now();
    if (!ask && now < next_) return true;
    next_ = now + kSlice;
    return patient_();
  }

 private:
  const std::function<bool()>& patient_;
  std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now() + kSlice;
};

void put(std::byte* page, std::size_t at, std::uint32_t value) { std::memcpy(page + at, &value, sizeof value); }

}  // namespace

void Context::spin(std::uint32_t rounds) const { word(told_, TOLD_SPIN).store(rounds, std::memory_order_relaxed); }

void Context::tell_bases() const { put(told_, TOLD_BASES, 1); }

bool Context::has_bases() const {
  std::uint32_t told;
  std::memcpy(&told, told_ + TOLD_BASES, sizeof told);
  return told != 0;
}
std::uint64_t Context::base(std::size_t n) const {
  return *reinterpret_cast<const volatile std::uint64_t*>(said_ + SAID_BASES + n * sizeof(std::uint64_t));
}

void Context::prepare(std::span<const Command> commands, Then then) const {
  assert(commands.size() <= TOLD_MOST_COMMANDS);
  if (!commands.empty()) std::memcpy(told_ + TOLD_COMMANDS, commands.data(), commands.size_bytes());
  put(told_, TOLD_COUNT, static_cast<std::uint32_t>(commands.size()));
  put(told_, TOLD_THEN, static_cast<std::uint32_t>(then));
}

void Context::listen() const {
  if (listener_ && listener_->usable())
    word(told_, TOLD_SLEEPS).store(TOLD_SLEEPS_ON_LISTENER, std::memory_order_relaxed);
}

std::uint32_t Context::go() const {
  const std::uint32_t number = word(told_, TOLD_GO).fetch_add(1, std::memory_order_seq_cst) + 1;
  if (listener_ && listener_->reply()) return number;
  if (word(said_, SAID_SLEEPS).load(std::memory_order_seq_cst) != 0) futex(told_, TOLD_GO, FUTEX_WAKE, 1, nullptr);
  return number;
}

std::uint32_t Context::newest() const { return word(told_, TOLD_GO).load(std::memory_order_relaxed); }

bool Context::answered(std::uint32_t number) const {
  return word(said_, SAID_DONE).load(std::memory_order_seq_cst) == number;
}

bool Context::applied(std::uint32_t number) const {
  return static_cast<std::int32_t>(word(said_, SAID_APPLIED).load(std::memory_order_seq_cst) - number) >= 0;
}

bool Context::wait_applied(std::uint32_t number, const std::function<bool()>& patient) const {
  for (unsigned rounds = 0; rounds < 200; ++rounds) {
    if (applied(number)) return true;
    arch::relax();
  }
  const auto waited = word(told_, TOLD_WAITED);
  waited.fetch_add(1, std::memory_order_seq_cst);
  Patience patience(patient);
  for (bool go_on = true; !applied(number) && go_on;) {
    const std::uint32_t seen = word(said_, SAID_APPLIED).load(std::memory_order_seq_cst);
    if (static_cast<std::int32_t>(seen - number) < 0) futex(said_, SAID_APPLIED, FUTEX_WAIT, seen, &kSliceTime);
    go_on = patience.lasts(false);
  }
  waited.fetch_sub(1, std::memory_order_seq_cst);
  return applied(number);
}

Context::Looked Context::look(std::chrono::nanoseconds limit) const {
  constexpr std::chrono::microseconds kDisplaced{10};  // far longer than a round takes
  const std::uint32_t number = newest();
  if (answered(number)) return {.answered = true, .at_once = true};
  auto now = std::chrono::steady_clock::now();
  const auto end = now + limit;
  for (Looked looked;;) {
    for (unsigned i = 0; i < 8 && !looked.answered; ++i) {
      looked.answered = answered(number);
      arch::relax();
    }
    const auto before = std::exchange(now, std::chrono::steady_clock::now());
    if (now - before > kDisplaced) looked.displaced += now - before;
    if (looked.answered || now >= end) return looked;
  }
}

bool Context::sleep(const std::function<bool()>& patient) const {
  const std::uint32_t number = newest();
  const auto sleeps = word(told_, TOLD_SLEEPS);
  // After listen() the thread's answer notifies the listener. Otherwise tell the thread that we sleep.
  const bool listens = sleeps.load(std::memory_order_relaxed) == TOLD_SLEEPS_ON_LISTENER;
  if (!listens) sleeps.store(TOLD_SLEEPS_ON_FUTEX, std::memory_order_seq_cst);
  const auto over = [&] { return answered(number) && (!listens || listener_->pending()); };
  bool go_on = true;
  Patience patience(patient);
  // A thread that missed a reply hands over again, and waits for another: poll for that, soon at first.
  const bool unheard = !listens && listener_ && listener_->used();
  for (std::chrono::milliseconds slice = unheard ? std::chrono::milliseconds(1) : kSlice; !over() && go_on;
       slice = std::min(2 * slice, kSlice)) {
    bool gone = false;
    if (listens) {
      listener_->reply();  // to a hand-over that was not the answer
      gone = listener_->wait(kSlice) == Listener::Heard::Gone;
    } else {
      const timespec timeout{0, std::chrono::nanoseconds(slice).count()};
      const std::uint32_t seen = word(said_, SAID_DONE).load(std::memory_order_seq_cst);
      if (seen != number) futex(said_, SAID_DONE, FUTEX_WAIT, seen, &timeout);
      if (unheard && listener_->wait(std::chrono::milliseconds(0)) == Listener::Heard::Thread) listener_->reply();
    }
    go_on = patience.lasts(gone);
  }
  sleeps.store(0, std::memory_order_seq_cst);
  return over();
}

std::int64_t Context::result(std::size_t command) const {
  return *reinterpret_cast<const volatile std::int64_t*>(said_ + SAID_RESULTS + 8 * command);
}

}  // namespace ramet::vmm::process
