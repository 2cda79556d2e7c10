// What is the same for every VM, and not cheap to be asked from KVM: asked once a process, and kept. An error is asked
// again.
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
