// /sys/kernel/debug/gup_test, the device by which Linux's own self-tests of memory management pin pages.
#pragma once

#include <memory>
#include <optional>

#include "guest-mm/pin.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "vmm/linux/files/files.hpp"
#include "vmm/linux/files/pin_holders.hpp"

namespace ramet::vmm {

class Thread;

inline constexpr const char* kGupTestPath = "/sys/kernel/debug/gup_test";

// What stands behind one open file: at most one long-term pin.
class GupTest : public PinHolder, public std::enable_shared_from_this<GupTest> {
 public:
  std::int64_t ioctl(Thread&, unsigned request, mm::Gva argument) override RAMET_EXCLUDES(lock_);
  void let_go() override RAMET_EXCLUDES(lock_);

 private:
  std::int64_t start(Thread&, mm::Gva) RAMET_REQUIRES(lock_);
  std::int64_t give_pages(Thread&, mm::Gva) RAMET_REQUIRES(lock_);
  Mutex lock_;  // lock order: before the address space's
  std::optional<mm::Pin> pin_ RAMET_GUARDED_BY(lock_);
};

// A new file of the device, to be installed.
OrErrno<std::shared_ptr<OpenFile>> open_gup_test(const Process&, int flags);  // `flags`: open(2)'s

}  // namespace ramet::vmm
