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

  // A new vCPU, made by `create(id)`; neither in use nor free yet. Errors: too many, or create()'s.
  template <class Create>
  std::expected<V*, Failure> make(Create&& create) RAMET_EXCLUDES(creating_, lock_) {
    // lock_ is not held meanwhile: create() takes the address-space lock, under which flushes take lock_.
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
    used_.reserve(made + 1), free_.reserve(made + 1);  // use() and put() allocate nothing
    return vcpus_.emplace_back(std::move(*created)).get();
  }
  // The vCPU is in use from now on.
  void use(V* vcpu) RAMET_EXCLUDES(lock_) {
    LockGuard hold(lock_);
    used_.push_back(vcpu);
    tell_only();
  }
  // The vCPU, which was in use or is new, is free from now on.
  void put(V* vcpu) RAMET_EXCLUDES(lock_) {
    LockGuard hold(lock_);
    std::erase(used_, vcpu);
    free_.push_back(vcpu);
    tell_only();
  }
  // Takes a free vCPU, not in use yet; null: none is free.
  V* take() RAMET_EXCLUDES(lock_) {
    LockGuard hold(lock_);
    if (free_.empty()) return nullptr;
    V* const vcpu = free_.back();
    free_.pop_back();
    return vcpu;
  }

  // Calls f for each vCPU in use; no other can be in the guest.
  template <class F>
  void for_each(F f) const RAMET_EXCLUDES(lock_) {
    LockGuard hold(lock_);
    for (V* v : used_) f(*v);
  }
  // Whether f holds for any that is in use.
  template <class F>
  bool any(F f) const RAMET_EXCLUDES(lock_) {
    LockGuard hold(lock_);
    for (V* v : used_)
      if (f(*v)) return true;
    return false;
  }
  // The only vCPU in use, else null. seq_cst: a flush advances the generation, then loads this; a vCPU that is acquired
  // later loads the new generation.
  V* only() const { return only_.load(std::memory_order_seq_cst); }

  // The vCPU that the calling thread ran last, if it is of this pool, else null. Another thread may use it by now.
  V* last_run_by_caller() const { return last_run_.pool == number_ ? last_run_.vcpu : nullptr; }
  void run_by_caller(V* vcpu) { last_run_ = {number_, vcpu}; }

  Machine::Totals totals() const RAMET_EXCLUDES(lock_) {
    Machine::Totals t{};
    LockGuard hold(lock_);
    for (const auto& v : vcpus_) t.add(v->counters());
    return t;
  }

 private:
  void tell_only() RAMET_REQUIRES(lock_) {
    only_.store(used_.size() == 1 ? used_.front() : nullptr, std::memory_order_seq_cst);
  }

  // Pools have numbers, as a later one may lie at the same address.
  struct LastRun {
    std::uint64_t pool = 0;
    V* vcpu = nullptr;
  };
  static inline thread_local LastRun last_run_;
  static inline std::atomic<std::uint64_t> pools_{0};
  const std::uint64_t number_ = pools_.fetch_add(1, std::memory_order_relaxed) + 1;
  const unsigned most_;
  Mutex creating_;  // only its holder adds to vcpus_
  mutable Mutex lock_;
  std::deque<std::unique_ptr<V>> vcpus_ RAMET_GUARDED_BY(lock_);  // grows only
  std::vector<V*> free_ RAMET_GUARDED_BY(lock_), used_ RAMET_GUARDED_BY(lock_);
  std::atomic<V*> only_{nullptr};  // written under lock_; see only()
};

}  // namespace ramet::vmm::kvm
