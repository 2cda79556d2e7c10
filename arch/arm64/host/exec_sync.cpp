// Cache maintenance for code (Arm ARM, B2.4.4 and D7.5): data caches are cleaned to the point of unification, then
// instruction caches are invalidated.
#include "arch/exec_sync.hpp"

#include <algorithm>
#include <cstdint>

#include "arch/guarded.hpp"

namespace ramet::arch {
namespace {

// guarded.S: for each line of [start, end). Precondition: `start` is the beginning of a line.
extern "C" RametGuarded ramet_guarded_clean(std::uintptr_t start, std::uintptr_t end, std::size_t line);
extern "C" RametGuarded ramet_guarded_invalidate(std::uintptr_t start, std::uintptr_t end, std::size_t line);

// CTR_EL0.
struct Caches {
  std::size_t instruction_line, data_line;
  unsigned policy;              // of level 1 instruction caches
  bool needs_clean, needs_invalidate;
};
Caches caches() {
  std::uint64_t ctr;
  asm("mrs %0, ctr_el0" : "=r"(ctr));
  return {.instruction_line = std::size_t{4} << (ctr & 15),
          .data_line = std::size_t{4} << (ctr >> 16 & 15),
          .policy = static_cast<unsigned>(ctr >> 14 & 3),
          .needs_clean = (ctr >> 28 & 1) == 0,
          .needs_invalidate = (ctr >> 29 & 1) == 0};
}

}  // namespace

void exec_sync(const std::byte* start, std::size_t bytes) {
  constexpr std::uintptr_t kPage = 4096;
  static const Caches host = caches();
  const auto first = reinterpret_cast<std::uintptr_t>(start), end = first + bytes;
  // A page at a time, as a fault ends the rest of the call.
  const auto each_page = [&](auto what, std::size_t line) {
    for (std::uintptr_t at = first; at < end; at = (at | (kPage - 1)) + 1)
      (void)what(at & ~(line - 1), std::min(end, (at | (kPage - 1)) + 1), line);
  };
  if (host.needs_clean) each_page(ramet_guarded_clean, host.data_line);
  asm volatile("dsb ish" ::: "memory");
  if (!host.needs_invalidate) return;
  each_page(ramet_guarded_invalidate, host.instruction_line);
  asm volatile("dsb ish" ::: "memory");
}

bool exec_sync_needed() {
  const Caches host = caches();
  return host.needs_clean || host.needs_invalidate;
}

const char* exec_sync_problem() {
  constexpr unsigned kByPhysicalAddress = 3;  // PIPT; other caches may keep a line of the page by another address
  if (caches().policy == kByPhysicalAddress) return nullptr;
  return "this host's instruction caches go by virtual addresses (VIPT): what is written at one address may be stale at another. "
         "Use a processor whose caches go by physical ones";
}

}  // namespace ramet::arch
