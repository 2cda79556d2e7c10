#include "vmm/linux/processes/save_points.hpp"

#include <cerrno>

#include "vmm/include/ramet_guest.h"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/syscall.hpp"

namespace ramet::vmm {
namespace {

// See ramet_guest.h. ENOSYS even if the program is saved here: then it ends, and its copies get another answer.
std::int64_t sys_ramet_snapshot(Thread& thread, const Args& a) {
  auto name = thread.memory().read_string(a[0], 255);
  if (!name) return name.error() == mm::Error::Invalid ? -ENAMETOOLONG : -EFAULT;
  if (thread.process.saving) thread.process.saving->at_hook(thread, *name);
  return -ENOSYS;
}

}  // namespace

std::span<const Definition> save_point_calls() {
  static constexpr Definition kCalls[] = {{Call{RAMET_SNAPSHOT_CALL}, sys_ramet_snapshot}};
  return kCalls;
}

}  // namespace ramet::vmm
