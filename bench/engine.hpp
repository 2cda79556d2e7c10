// What the engine's benchmarks share: an address space driven by plain host threads, the same work done by Linux,
// and medians of things measured in turn, so that whatever else the machine does meets all of them.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "guest-mm/address_space.hpp"

namespace ramet::mm::bench {

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

  explicit Engine(AddressSpace::Config config = {}, std::uint64_t bytes = 256 << 20,
                  std::unique_ptr<Tlb> t = std::make_unique<NoTlb>())
      : tlb(std::move(t)) {
    memory = std::move(Memory::create({.data_bytes = bytes, .table_bytes = 16 << 20}).value());
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
  // The guest writes there: the host's memory comes from the host now, not while something is measured.
  void touch(Gva at, std::uint64_t length) {
    for (Gva va = at; va < at + length; va += kPageSize) *space->word(va).value().word = 1;
  }
};

inline char* native_map(Gva at, std::uint64_t length, int advice) {
  char* p = static_cast<char*>(::mmap(reinterpret_cast<void*>(at), length, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
  check(p == reinterpret_cast<char*>(at));
  (void)::madvise(p, length, advice);
  return p;
}

inline void native_touch(Gva at) { *reinterpret_cast<volatile char*>(at) = 1; }

template <class Work>
double nanoseconds(Work&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
}

struct Samples {
  std::vector<double> values;
  void add(double v) { values.push_back(v); }
  double median() const {
    std::vector<double> sorted = values;
    std::ranges::sort(sorted);
    return sorted.empty() ? 0 : sorted[sorted.size() / 2];
  }
};

// The median of the pairs' ratios.
inline double ratio(const Samples& a, const Samples& b) {
  Samples r;
  for (std::size_t i = 0; i < a.values.size(); ++i) r.add(a.values[i] / b.values[i]);
  return r.median();
}

}  // namespace ramet::mm::bench
