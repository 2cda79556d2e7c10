// Touching memory that may not be there: pages of a file that somebody truncates meanwhile, mappings that are read-only
// or gone. The accesses are assembly (x86_64/host/guarded.S, arm64/host/guarded.S), all between two labels; when one of
// them faults, whatever for, the handler of SIGSEGV and SIGBUS finds its program counter there and moves it to a
// landing, which returns to the caller with `fault` set:
//
//   ramet_guarded_begin:    each function leaves the stack as it found it, so that one landing serves all
//   ramet_guarded_end:
//   ramet_guarded_landing:  fault = 1, return; a function that changes more than that has another one
//
// Any other fault is handed on to the handler that was there before, or does what it does without one. Handlers that
// are installed later must do likewise with what is not theirs (dynarmic's does). A thread with SIGSEGV or SIGBUS
// blocked is killed by the kernel when it faults, here as anywhere: threads that touch guest memory do not block them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#if defined(__SANITIZE_ADDRESS__)
#define RAMET_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#define RAMET_ADDRESS_SANITIZER __has_feature(address_sanitizer)
#else
#define RAMET_ADDRESS_SANITIZER 0
#endif
#if RAMET_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#endif

namespace ramet::arch {

// Installs the handler, in the whole process and for good. Before the first access below; again does nothing.
void install_guard();
// The same once more, after a library has installed handlers that hand on to ours but say something first. Once; again
// does nothing.
void install_guard_on_top();

extern "C" {
struct RametGuarded {
  std::uint64_t value, fault;
};
RametGuarded ramet_guarded_copy(void* to, const void* from, std::size_t bytes);
RametGuarded ramet_guarded_load(const std::uint32_t*);
RametGuarded ramet_guarded_store(std::uint32_t*, std::uint32_t value);
RametGuarded ramet_guarded_compare_exchange(std::uint32_t*, std::uint32_t expected, std::uint32_t desired);
}

// The same once more, after it has faulted: in pieces of which each lies in one page, up to the one that cannot be
// reached.
void guarded_copy_up_to_fault(void* to, const void* from, std::size_t bytes);

// Like memcpy; the ranges do not overlap. False: not all of it could be reached; what lies before the first page that
// could not has been copied.
// If somebody writes there meanwhile, each byte that arrives was there at some moment, and no two at the same.
[[nodiscard]] inline bool guarded_copy(void* to, const void* from, std::size_t bytes) {
#if RAMET_ADDRESS_SANITIZER
  // It does not see into assembly; what it says is wrong is touched where it does.
  if (const void* bad = __asan_region_is_poisoned(to, bytes))
    *const_cast<volatile char*>(static_cast<const char*>(bad)) = 0;
  if (const void* bad = __asan_region_is_poisoned(const_cast<void*>(from), bytes))
    (void)*static_cast<const volatile char*>(bad);
#endif
  if (ramet_guarded_copy(to, from, bytes).fault == 0) return true;
  guarded_copy_up_to_fault(to, from, bytes);
  return false;
}

// Atomic accesses to an aligned word that a guest shares; nothing if it cannot be reached.
// Acquire: pairs with the guest's release store.
[[nodiscard]] inline std::optional<std::uint32_t> guarded_load(const std::uint32_t* at) {
  const RametGuarded r = ramet_guarded_load(at);
  return r.fault ? std::nullopt : std::optional(static_cast<std::uint32_t>(r.value));
}
// Release: pairs with the guest's acquire load.
[[nodiscard]] inline bool guarded_store(std::uint32_t* at, std::uint32_t value) {
  return ramet_guarded_store(at, value).fault == 0;
}
// What was there; it was replaced if that is `expected`. Acquire and release: pairs with the guest's own atomics.
[[nodiscard]] inline std::optional<std::uint32_t> guarded_compare_exchange(std::uint32_t* at, std::uint32_t expected,
                                                                           std::uint32_t desired) {
  const RametGuarded r = ramet_guarded_compare_exchange(at, expected, desired);
  return r.fault ? std::nullopt : std::optional(static_cast<std::uint32_t>(r.value));
}

}  // namespace ramet::arch
