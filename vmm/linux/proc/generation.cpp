#include "vmm/linux/proc/generation.hpp"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include <cerrno>

#include "vmm/include/ramet_guest.h"
#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/signals/state.hpp"

namespace ramet::vmm {
namespace {

std::int64_t sys_ramet_generation(Thread& thread, const Args& a) {
  const std::uint64_t generation = thread.process.family.generation;
  switch (a[0]) {
    case RAMET_GENERATION_READ: return static_cast<std::int64_t>(generation);
    case RAMET_GENERATION_WAIT:
      if (generation != a[1]) return static_cast<std::int64_t>(generation);
      return wait_for_signal(thread);  // in a copy the call starts again
    case RAMET_GENERATION_SIGNAL:
      if (a.i32(1) < 0 || a.i32(1) > kSignals) return -EINVAL;
      thread.process.generation_signal.store(a.i32(1), std::memory_order_relaxed);
      return 0;
    default: return -EINVAL;
  }
}

}  // namespace

OrErrno<std::shared_ptr<OpenFile>> open_generation(const Process& process, int flags) {
  if ((flags & O_ACCMODE) != O_RDONLY) return err(EACCES);
  HostFd host(::eventfd(0, EFD_CLOEXEC | (flags & O_NONBLOCK ? EFD_NONBLOCK : 0)));
  if (!host || ::eventfd_write(host.get(), process.family.generation) != 0) return err(errno);
  return make_file(OpenFile::Kind::Event, std::move(host), flags & (O_ACCMODE | O_NONBLOCK), kGenerationDevice);
}

void tell_generation(Process& process) {
  siginfo_t info{};
  info.si_signo = process.generation_signal.load(std::memory_order_relaxed);
  if (info.si_signo == 0) return;
  info.si_code = SI_QUEUE;
  info.si_pid = process.pid;
  info.si_value.sival_int = static_cast<int>(process.family.generation);
  (void)send_to_process(process, info);  // lost if its queue is full
}

std::span<const Definition> generation_calls() {
  static constexpr Definition kCalls[] = {{Call{RAMET_GENERATION_CALL}, sys_ramet_generation}};
  return kCalls;
}

}  // namespace ramet::vmm
