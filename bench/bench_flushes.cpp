// Read-only and writable again, of one page: what the engine's relaxed and strict flushes cost beside Linux's mprotect,
// with nobody else running, with a thread that only reads, and with one that protects a page of its own.
//
// A kick is membarrier(2): it interrupts every processor that runs a thread of this process and waits for it, which is
// what a strict flush does to vCPUs, without the exits.
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <benchmark/benchmark.h>

#include "bench/engine.hpp"

namespace {

using namespace ramet::mm;
using namespace ramet::mm::bench;

constexpr unsigned kPages = 32;  // between two readings of the clock, whose cost so hardly counts
constexpr unsigned kRounds = 8;  // in one sample

class KickingTlb final : public Tlb {
 public:
  KickingTlb() { check(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0); }
  void flush(const FlushRequest&) override { check(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0); }
  void flush_relaxed(const FlushRequest&) override {}

 private:
  static long membarrier(int command) { return ::syscall(SYS_membarrier, command, 0, 0); }
};

// Pages with holes between them: each stays a region of its own.
Gva page(unsigned thread, unsigned i) { return kAt + thread * kBlockSize + 2 * i * kPageSize; }

// Both sides protect, and touch what they made writable as the program would.
struct OurPages {
  Engine engine;
  explicit OurPages(bool relaxed)
      : engine({.blocks = false, .relaxed_flushes = relaxed, .around_pages = 1}, 256 << 20,
               std::make_unique<KickingTlb>()) {
    for (unsigned t = 0; t < 2; ++t)
      for (unsigned i = 0; i < kPages; ++i) engine.map(page(t, i), kPageSize), engine.touch(page(t, i), kPageSize);
    word_ = reinterpret_cast<std::uint32_t*>(engine.space->word(page(0, 0)).value().address());
  }
  void protect(Gva at, bool writable) { engine.protect(at, kPageSize, writable ? kReadWrite : kRead); }
  void touch(Gva) {}  // a guest's store goes through its own entry, which no flush needs to have reached
  void read() { (void)*static_cast<volatile std::uint32_t*>(word_); }
  std::uint64_t strict() const { return engine.space->counters().flushes; }

 private:
  std::uint32_t* word_;
};

struct LinuxPages {
  LinuxPages() {
    for (unsigned t = 0; t < 2; ++t)
      for (unsigned i = 0; i < kPages; ++i)
        native_map(page(t, i), kPageSize, MADV_NOHUGEPAGE), native_touch(page(t, i));
  }
  ~LinuxPages() {
    for (unsigned t = 0; t < 2; ++t)
      for (unsigned i = 0; i < kPages; ++i) ::munmap(reinterpret_cast<void*>(page(t, i)), kPageSize);
  }
  void protect(Gva at, bool writable) {
    check(::mprotect(reinterpret_cast<void*>(at), kPageSize, writable ? PROT_READ | PROT_WRITE : PROT_READ) == 0);
  }
  void touch(Gva at) { native_touch(at); }
  void read() { (void)*reinterpret_cast<volatile char*>(page(0, 0)); }
  std::uint64_t strict() const { return 0; }
};

enum class Other : int { Sleeps, Reads, Protects };

// The second thread.
template <class Pages>
class Second {
 public:
  explicit Second(Pages& pages) : thread_([this, &pages](const std::stop_token& stop) { run(pages, stop); }) {}
  ~Second() {
    thread_.request_stop();
    become(Other::Reads);  // wakes it, so that it sees the request
  }
  void become(Other what) {
    wanted_ = what;
    wanted_.notify_one();
  }
  // Until it does what it was told to.
  void become_and_wait(Other what) {
    become(what);
    while (does_ != what) std::this_thread::yield();
    if (what == Other::Sleeps) std::this_thread::sleep_for(std::chrono::microseconds(200));
  }

 private:
  void run(Pages& pages, const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      const Other now = wanted_;
      does_ = now;
      switch (now) {
        case Other::Sleeps: wanted_.wait(Other::Sleeps); break;
        case Other::Reads:
          for (unsigned i = 0; i < 1000; ++i) pages.read();
          break;
        case Other::Protects:
          for (unsigned i = 0; i < kPages; ++i) pages.protect(page(1, i), false);
          for (unsigned i = 0; i < kPages; ++i) pages.protect(page(1, i), true), pages.touch(page(1, i));
          break;
      }
    }
  }
  std::atomic<Other> wanted_{Other::Sleeps}, does_{Other::Sleeps};
  std::jthread thread_;
};

struct Costs {
  Samples read_only, writable;
};

template <class Pages>
void piece(Pages& pages, Costs& costs, std::uint64_t* strict_upgrades) {
  double down = 0, up = 0;
  for (unsigned round = 0; round < kRounds; ++round) {
    down += nanoseconds([&] {
      for (unsigned i = 0; i < kPages; ++i) pages.protect(page(0, i), false);
    });
    const std::uint64_t before = pages.strict();
    up += nanoseconds([&] {
      for (unsigned i = 0; i < kPages; ++i) pages.protect(page(0, i), true);
    });
    if (strict_upgrades) *strict_upgrades += pages.strict() - before;
    for (unsigned i = 0; i < kPages; ++i) pages.touch(page(0, i));
  }
  costs.read_only.add(down / (kPages * kRounds));
  costs.writable.add(up / (kPages * kRounds));
}

template <class Pages>
void upgrade(benchmark::State& state, Pages& pages) {
  Second second(pages);
  Costs alone, beside_reader, beside_protector;
  std::uint64_t strict_upgrades = 0;
  for (auto _ : state) {
    second.become_and_wait(Other::Sleeps);
    piece(pages, alone, &strict_upgrades);
    second.become_and_wait(Other::Reads);
    piece(pages, beside_reader, &strict_upgrades);
    second.become_and_wait(Other::Protects);
    piece(pages, beside_protector, nullptr);  // the counter has the second thread's strict flushes as well
    second.become_and_wait(Other::Sleeps);
  }
  // The table of the Linux proposal (Amit 2022): one thread, two threads; and the harder case of two that protect.
  const auto show = [&](const std::string& name, Samples Costs::* direction) {
    state.counters[name + "_1T_ns"] = (alone.*direction).median();
    state.counters[name + "_2T_ns"] = (beside_reader.*direction).median();
    state.counters[name + "_2T_ratio"] = ratio(beside_reader.*direction, alone.*direction);
    state.counters[name + "_both_ns"] = (beside_protector.*direction).median();
    state.counters[name + "_both_ratio"] = ratio(beside_protector.*direction, alone.*direction);
  };
  show("read_only", &Costs::read_only);
  show("writable", &Costs::writable);
  state.counters["strict_flushes_of_upgrades"] = double(strict_upgrades);
}

void ours(benchmark::State& state, bool relaxed) {
  OurPages pages(relaxed);
  upgrade(state, pages);
}
void linux(benchmark::State& state) {
  LinuxPages pages;
  upgrade(state, pages);
}
BENCHMARK_CAPTURE(ours, relaxed, true)->Iterations(200)->UseRealTime();
BENCHMARK_CAPTURE(ours, strict, false)->Iterations(200)->UseRealTime();
BENCHMARK(linux)->Iterations(200)->UseRealTime();

}  // namespace
