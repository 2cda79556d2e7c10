// What the engine's benchmarks share: an address space driven by plain host threads, and the same work done by Linux.
#pragma once

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "bench/samples.hpp"
#include "guest-mm/address_space.hpp"

namespace ramet::mm::bench {

using ramet::bench::nanoseconds, ramet::bench::ratio, ramet::bench::Samples;

inline constexpr Gva kAt = 0x10'0000'0000;
inline constexpr Prot kRead = Prot::Read, kReadWrite = Prot::Read | Prot::Write;

inline void check(bool done) {
  if (!done) std::abort();
}

// No vCPU, so nothing to flush. The address space counts how often it asked.
struct NoTlb final : Tlb {
  void flush(const FlushRequest&) override {}
  void flush_relaxed(const FlushRequest&) override {}
};

struct Engine {
  std::unique_ptr<Tlb> tlb;
  std::unique_ptr<Memory> memory;
  std::unique_ptr<AddressSpace> space;

  // `all`: the physical space of engines that share memory; null: one of its own.
  explicit Engine(AddressSpace::Config config = {}, std::uint64_t bytes = 256 << 20,
                  std::unique_ptr<Tlb> t = std::make_unique<NoTlb>(), std::shared_ptr<PhysicalSpace> all = nullptr)
      : tlb(std::move(t)) {
    memory = std::move(Memory::create({.data_bytes = bytes, .table_bytes = 16 << 20, .space = std::move(all)}).value());
    space = std::move(AddressSpace::create(config, *memory, *tlb).value());
  }
  void map(Gva at, std::uint64_t length, bool populate = false) {
    MapRequest request;
    request.address = at, request.length = length, request.prot = kReadWrite;
    request.fixed = true, request.populate = populate;
    check(space->map(request).has_value());
  }
  void unmap(Gva at, std::uint64_t length) { check(space->unmap(at, length).has_value()); }
  void protect(Gva at, std::uint64_t length, Prot prot) { check(space->protect(at, length, prot).has_value()); }
  void drop(Gva at, std::uint64_t length) { check(space->advise(at, length, Advice::DontNeed).has_value()); }
  void fault(Gva at) { check(space->fault(at, Access::Write).has_value()); }
  // Writes every page as the guest would, so that the host provides the memory now, not during a measurement.
  void touch(Gva at, std::uint64_t length) {
    for (Gva va = at; va < at + length; va += kPageSize)
      check(space->write(va, std::as_bytes(std::span("\1", 1))).has_value());
  }
};

inline char* native_map(Gva at, std::uint64_t length, int advice) {
  char* p = static_cast<char*>(::mmap(reinterpret_cast<void*>(at), length, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
  check(p == reinterpret_cast<char*>(at));
  (void)::madvise(p, length, advice);
  return p;
}

// Threads that are compared have a processor each, or the scheduler would be half of what is measured.
inline void stay_on_processor(unsigned number) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(number % std::max(1u, std::thread::hardware_concurrency()), &set);
  (void)::sched_setaffinity(0, sizeof set, &set);
}

inline void native_touch(Gva at) { *reinterpret_cast<volatile char*>(at) = 1; }

}  // namespace ramet::mm::bench
