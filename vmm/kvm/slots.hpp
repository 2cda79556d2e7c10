// Memslots: one for each bank that KVM knows of.
#pragma once

#include <atomic>
#include <vector>

#include "guest-mm/bank.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "vmm/error.hpp"
#include "vmm/kvm/ioctl.hpp"

namespace ramet::vmm::kvm {

class Slots {
 public:
  // `most`: how many memslots there may be, numbered from 0. The VM outlives the object.
  Slots(const HostFd& vm, unsigned most) : vm_(vm), most_(most) {}

  // `late`: the next tell_late() makes the memslot, as that takes time. Errors: NoMemory: no slot is free, or KVM
  // refuses.
  mm::Result<> add(const mm::Bank&, bool late) RAMET_EXCLUDES(lock_);
  void remove(const mm::Bank&) RAMET_EXCLUDES(lock_);
  // Called before a vCPU enters. Errors: KVM refuses a slot.
  Status tell_late() RAMET_EXCLUDES(lock_);

 private:
  bool set(unsigned slot, const mm::Bank&, bool present);
  const HostFd& vm_;
  const unsigned most_;
  Mutex lock_;
  std::vector<const mm::Bank*> slots_ RAMET_GUARDED_BY(lock_);  // index: memslot; null: free
  std::vector<unsigned> late_ RAMET_GUARDED_BY(lock_);          // slots that KVM has not been told of yet
  // False: late_ is empty. Release after late_ has been changed, acquire before a vCPU enters.
  std::atomic<bool> any_late_{false};
};

}  // namespace ramet::vmm::kvm
