// The virtual CPUs of a machine. KVM cannot delete one, so those that are given back are given out again.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/machine.hpp"

namespace ramet::vmm::kvm {

template <class V>
class VcpuPool {
 public:
  explicit VcpuPool(unsigned most) : most_(most) {}

  // A new one, made by `create(id)`, that nobody has yet.
  template <class Create>
  std::expected<V*, Failure> make(Create&& create) {
    // Creating one takes frames, so the address-space lock; whoever flushes holds that and takes lock_.
    LockGuard one_at_a_time(creating_);
    std::size_t made;
    {
      LockGuard hold(lock_);
      made = vcpus_.size();
    }
    if (made >= most_) return failure(fmt::format("this host's KVM gives a machine at most {} virtual CPUs", most_));
    std::expected<std::unique_ptr<V>, Failure> created = create(unsigned(made));
    if (!created) return std::unexpected(created.error());
    LockGuard hold(lock_);
    return vcpus_.emplace_back(std::move(*created)).get();
  }
  void put(V* vcpu) {
    LockGuard hold(lock_);
    free_.push_back(vcpu);
  }
  // Null: none is left.
  V* take() {
    LockGuard hold(lock_);
    if (free_.empty()) return nullptr;
    V* const vcpu = free_.back();
    free_.pop_back();
    return vcpu;
  }

  template <class F>
  void for_each(F f) const {
    LockGuard hold(lock_);
    for (const auto& v : vcpus_) f(*v);
  }
  // Whether `f` says so of one.
  template <class F>
  bool any(F f) const {
    LockGuard hold(lock_);
    for (const auto& v : vcpus_)
      if (f(*v)) return true;
    return false;
  }

  Machine::Totals totals() const {
    Machine::Totals t{};
    for_each([&](const V& v) { t.add(v.counters()); });
    return t;
  }

 private:
  const unsigned most_;
  Mutex creating_;                  // only its holder adds to vcpus_. Order: creating_ > address space
  mutable Mutex lock_;  // order: the address-space lock before it
  std::deque<std::unique_ptr<V>> vcpus_ RAMET_GUARDED_BY(lock_); // grows only
  std::vector<V*> free_ RAMET_GUARDED_BY(lock_);
};

}  // namespace ramet::vmm::kvm
