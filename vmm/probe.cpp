#include "vmm/probe.hpp"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>

#include "vmm/kvm/probe.hpp"
#include "vmm/process/machine.hpp"

namespace ramet::vmm {
namespace {

// The word in brackets of a file like "always [madvise] never".
std::string selected(const char* path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  auto from = line.find('['), to = line.find(']');
  return from == line.npos || to == line.npos ? "" : line.substr(from + 1, to - from - 1);
}

bool gives_descriptor(long fd) {
  if (fd >= 0) close(static_cast<int>(fd));
  return fd >= 0;
}

bool have_userfaultfd() {
  return gives_descriptor(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY));
}

bool have_io_uring() {
  io_uring_params p = {};
  return gives_descriptor(syscall(SYS_io_uring_setup, 1, &p));
}

void probe_kernel(HostFacts& f) {
  f.userfaultfd = have_userfaultfd();
  f.io_uring = have_io_uring();
  f.huge_anonymous = selected("/sys/kernel/mm/transparent_hugepage/enabled");
  f.huge_shared = selected("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  rlimit limit;
  if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) f.memlock = limit.rlim_cur == RLIM_INFINITY ? ~0ull : limit.rlim_cur;
  std::ifstream("/proc/sys/vm/max_map_count") >> f.max_map_count;
}

}  // namespace

HostFacts probe_host(const std::string& kvm_device) {
  HostFacts f;
  kvm::probe_kvm(f, kvm_device);
  const auto machine = process::ProcessMachine::create();
  f.process = machine.has_value();
  if (!machine) f.process_problem = machine.error().message;
  probe_kernel(f);
  return f;
}

std::vector<Finding> doctor() { return findings(probe_host()); }

}  // namespace ramet::vmm
