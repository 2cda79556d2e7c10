// Accesses to memory that may have gone: pages of a file that is truncated meanwhile, mappings that are read-only or
// unmapped. The accesses are assembly (x86_64/host/guarded.S, arm64/host/guarded.S), all between two labels. When one
// of them faults, for whatever reason, the handler of SIGSEGV and SIGBUS finds the program counter there and moves it
// to a landing, which returns to the caller with `fault` set:
//
//   ramet_guarded_begin:    no function here changes the stack, so that one landing serves all
//   ramet_guarded_end:
//   ramet_guarded_landing:  fault = 1, return; a function that changes callee-saved registers has its own landing
//
// Any other fault is handed on to the handler that was installed before, or has its default effect. Handlers that are
// installed later must hand on faults in the same way (dynarmic's does). The kernel kills a thread that faults with
// SIGSEGV or SIGBUS blocked: threads that access guest memory do not block them.
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

// Installs the handler, for the whole process and for good. To be called before the first access below; further calls
// do nothing.
void install_guard();
// Installs it again, on top of the handlers of a library that hand faults on to ours but print a message first. Further
// calls do nothing.
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

// For a copy that has faulted: copies again, in pieces that each lie in one page, up to the first that cannot be
// reached.
void guarded_copy_up_to_fault(void* to, const void* from, std::size_t bytes);

// Like memcpy; the ranges do not overlap. False: not all of it could be reached; what lies before the first page that
// could not has been copied.
// If the source is written meanwhile, each byte copied was there at some moment, not all at the same moment.
[[nodiscard]] inline bool guarded_copy(void* to, const void* from, std::size_t bytes) {
#if RAMET_ADDRESS_SANITIZER
  // AddressSanitizer does not see assembly: a byte that it says is poisoned is accessed here, for it to report.
  if (const void* bad = __asan_region_is_poisoned(to, bytes))
    *const_cast<volatile char*>(static_cast<const char*>(bad)) = 0;
  if (const void* bad = __asan_region_is_poisoned(const_cast<void*>(from), bytes))
    (void)*static_cast<const volatile char*>(bad);
#endif
  if (ramet_guarded_copy(to, from, bytes).fault == 0) return true;
  guarded_copy_up_to_fault(to, from, bytes);
  return false;
}

// Atomic accesses to an aligned word that a guest may change; nullopt if it cannot be reached.
// Acquire: pairs with the guest's release store.
[[nodiscard]] inline std::optional<std::uint32_t> guarded_load(const std::uint32_t* at) {
  const RametGuarded r = ramet_guarded_load(at);
  return r.fault ? std::nullopt : std::optional(static_cast<std::uint32_t>(r.value));
}
// Release: pairs with the guest's acquire load.
[[nodiscard]] inline bool guarded_store(std::uint32_t* at, std::uint32_t value) {
  return ramet_guarded_store(at, value).fault == 0;
}
// Returns what was there; the word was replaced if that is `expected`. Acquire and release: pairs with the guest's own
// atomics.
[[nodiscard]] inline std::optional<std::uint32_t> guarded_compare_exchange(std::uint32_t* at, std::uint32_t expected,
                                                                           std::uint32_t desired) {
  const RametGuarded r = ramet_guarded_compare_exchange(at, expected, desired);
  return r.fault ? std::nullopt : std::optional(static_cast<std::uint32_t>(r.value));
}

}  // namespace ramet::arch
