// Asks KVM once a process for what is the same for every VM and slow to ask for, and keeps the answer. Errors are not
// kept.
#pragma once

#include <expected>
#include <optional>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/error.hpp"

namespace ramet::vmm::kvm {

template <class T, class Ask>
std::expected<const T*, Failure> ask_once(Ask&& ask) {
  static Mutex lock;
  static std::optional<T> kept;
  LockGuard hold(lock);
  if (!kept) {
    auto asked = ask();
    if (!asked) return std::unexpected(asked.error());
    kept = std::move(*asked);
  }
  return &*kept;
}

}  // namespace ramet::vmm::kvm
