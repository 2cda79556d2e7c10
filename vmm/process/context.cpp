#include "vmm/process/context.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cassert>
#include <chrono>
#include <cstring>

namespace ramet::vmm::process {
namespace {

// Words that both sides use. seq_cst: each side writes its word, then looks whether the other sleeps; the other says so,
// then looks at the word. The stub's half of each pair is an XCHG.
std::atomic_ref<std::uint32_t> word(std::byte* page, std::size_t at) {
  return std::atomic_ref(*reinterpret_cast<std::uint32_t*>(page + at));
}

long futex(std::byte* page, std::size_t at, int operation, std::uint32_t value, const timespec* timeout) {
  return ::syscall(SYS_futex, page + at, operation, value, timeout, nullptr, 0);
}

void put(std::byte* page, std::size_t at, std::uint32_t value) { std::memcpy(page + at, &value, sizeof value); }

}  // namespace

void Context::spin(std::uint32_t rounds) const { word(told_, TOLD_SPIN).store(rounds, std::memory_order_relaxed); }

void Context::tell_bases() const { put(told_, TOLD_FSGS, 1); }

bool Context::has_bases() const {
  std::uint32_t told;
  std::memcpy(&told, told_ + TOLD_FSGS, sizeof told);
  return told != 0;
}
std::uint64_t Context::fs_base() const { return *reinterpret_cast<const volatile std::uint64_t*>(said_ + SAID_FS); }
std::uint64_t Context::gs_base() const { return *reinterpret_cast<const volatile std::uint64_t*>(said_ + SAID_GS); }

void Context::prepare(std::span<const Command> commands, Then then) const {
  assert(commands.size() <= TOLD_MOST_COMMANDS);
  if (!commands.empty()) std::memcpy(told_ + TOLD_COMMANDS, commands.data(), commands.size_bytes());
  put(told_, TOLD_COUNT, static_cast<std::uint32_t>(commands.size()));
  put(told_, TOLD_THEN, static_cast<std::uint32_t>(then));
}

std::uint32_t Context::go() const {
  const std::uint32_t number = word(told_, TOLD_GO).fetch_add(1, std::memory_order_seq_cst) + 1;
  if (word(said_, SAID_SLEEPS).load(std::memory_order_seq_cst) != 0) futex(told_, TOLD_GO, FUTEX_WAKE, 1, nullptr);
  return number;
}

std::uint32_t Context::newest() const { return word(told_, TOLD_GO).load(std::memory_order_relaxed); }

bool Context::answered(std::uint32_t number) const { return word(said_, SAID_DONE).load(std::memory_order_seq_cst) == number; }

bool Context::applied(std::uint32_t number) const {
  return static_cast<std::int32_t>(word(said_, SAID_APPLIED).load(std::memory_order_seq_cst) - number) >= 0;
}

bool Context::wait(std::uint32_t rounds, const std::function<bool()>& patient) const {
  const std::uint32_t number = newest();
  for (; rounds > 0; --rounds) {
    if (answered(number)) return true;
    __builtin_ia32_pause();
  }
  auto done = word(said_, SAID_DONE);
  word(told_, TOLD_SLEEPS).store(1, std::memory_order_seq_cst);
  bool go_on = true;
  // By the clock: the process may wake us, or write that word, as often as it likes.
  constexpr std::chrono::milliseconds kSlice{100};
  auto next = std::chrono::steady_clock::now() + kSlice;
  for (std::uint32_t seen; (seen = done.load(std::memory_order_seq_cst)) != number && go_on;) {
    constexpr timespec kTimeout{0, std::chrono::nanoseconds(kSlice).count()};
    futex(said_, SAID_DONE, FUTEX_WAIT, seen, &kTimeout);
    if (const auto now = std::chrono::steady_clock::now(); now >= next) {
      next = now + kSlice;
      go_on = patient();
    }
  }
  word(told_, TOLD_SLEEPS).store(0, std::memory_order_seq_cst);
  return answered(number);
}

std::int64_t Context::result(std::size_t command) const {
  return *reinterpret_cast<const volatile std::int64_t*>(said_ + SAID_RESULTS + 8 * command);
}

}  // namespace ramet::vmm::process
