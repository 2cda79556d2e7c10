#include "vmm/kvm/slots.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace ramet::vmm::kvm {

bool Slots::set(unsigned slot, const mm::Bank& bank, bool present) {
  kvm_userspace_memory_region region = {};
  region.slot = slot;
  // What a guest in ring 0 stores there does not happen, and comes out as an MMIO exit.
  region.flags = bank.read_only() ? KVM_MEM_READONLY : 0;
  region.guest_phys_addr = bank.base();
  region.memory_size = present ? bank.size() : 0;
  region.userspace_addr = reinterpret_cast<std::uint64_t>(bank.host());
  return call(vm_, KVM_SET_USER_MEMORY_REGION, &region) == 0;
}

mm::Result<> Slots::add(const mm::Bank& bank, bool late) {
  LockGuard hold(lock_);
  auto slot = std::ranges::find(slots_, nullptr);
  if (slot == slots_.end()) {
    if (slots_.size() == most_) return mm::fail(mm::Error::NoMemory);
    slot = slots_.insert(slots_.end(), nullptr);
  }
  const auto number = unsigned(slot - slots_.begin());
  if (late) {
    late_.push_back(number);
    any_late_.store(true, std::memory_order_release);
  } else if (!set(number, bank, true)) {
    return mm::fail(mm::Error::NoMemory);
  }
  *slot = &bank;
  return {};
}

Status Slots::tell_late() {
  if (!any_late_.load(std::memory_order_acquire)) return {};
  LockGuard hold(lock_);
  while (!late_.empty()) {
    const mm::Bank& bank = *slots_[late_.back()];
    if (!set(late_.back(), bank, true))
      return failure(fmt::format("KVM cannot give the guest another {} MiB of memory: {}", bank.size() >> 20,
                                 std::strerror(errno)));
    late_.pop_back();
  }
  any_late_.store(false, std::memory_order_release);
  return {};
}

void Slots::remove(const mm::Bank& bank) {
  LockGuard hold(lock_);
  auto slot = std::ranges::find(slots_, &bank);
  if (slot == slots_.end()) return;
  if (std::erase(late_, unsigned(slot - slots_.begin())) > 0) {
    *slot = nullptr;
    return;
  }
  // If KVM cannot delete the slot (it may be out of memory), its number stays taken: reusing it would fail.
  if (set(unsigned(slot - slots_.begin()), bank, false)) *slot = nullptr;
}

}  // namespace ramet::vmm::kvm
