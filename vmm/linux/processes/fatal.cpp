// Messages for fatal signals.
#include "vmm/linux/processes/fatal.hpp"

#include <fmt/format.h>

#include "vmm/linux/processes/thread.hpp"
#include "vmm/signal_name.hpp"

namespace ramet::vmm {
namespace {

constexpr std::uint64_t kMiB = 1ull << 20;
// How far from the stack pointer an access is taken for one of the stack.
constexpr std::uint64_t kNearStack = kMiB;

bool near(mm::Gva a, mm::Gva b) { return (a > b ? a - b : b - a) < kNearStack; }

std::string where(Thread& thread, mm::Gva address) {
  auto region = thread.memory().find_region(address);
  if (!region) return "not mapped";
  std::string name = !region->name.empty() ? region->name : region->backing ? region->backing->identity().path : "";
  if (name.empty()) name = "anonymous memory";
  using mm::has, mm::Prot;
  return fmt::format("{}, {}{}{}", name, has(region->prot, Prot::Read) ? 'r' : '-',
                     has(region->prot, Prot::Write) ? 'w' : '-', has(region->prot, Prot::Exec) ? 'x' : '-');
}

std::string explain_access(Thread& thread, mm::Gva address) {
  const Image& image = thread.image();
  mm::Gva pc = thread.pc(), sp = thread.sp();
  if (address == pc) return fmt::format("jump to {:#x} ({})", address, where(thread, address));
  if (near(address, sp)) {
    if (address < image.stack_top && image.stack_top - address > image.stack_limit - 256 * 1024 &&
        image.stack_top - address < image.stack_limit + 16 * kMiB)
      return fmt::format("stack overflow: the stack reached its limit of {} MiB at {:#x}, pc {:#x}",
                         image.stack_limit / kMiB, address, pc);
    if (auto guard = thread.memory().find_region(address); guard && guard->prot == mm::Prot::None && !guard->backing)
      return fmt::format("stack overflow: a thread's stack reached its guard page at {:#x}, pc {:#x}", address, pc);
  }
  bool write = thread.last_fault.error & thread.abi().trap.write;
  return fmt::format("{} {:#x} ({}), pc {:#x}", write ? "write to" : "read from", address, where(thread, address), pc);
}

}  // namespace

Ending fatal_ending(Thread& thread, const siginfo_t& info) {
  int sig = info.si_signo;
  mm::Gva pc = thread.pc();
  auto address = reinterpret_cast<mm::Gva>(info.si_addr);
  bool from_fault = info.si_code > 0 && info.si_code != SI_KERNEL;
  std::string detail;
  if ((sig == SIGSEGV || sig == SIGBUS) && from_fault) detail = explain_access(thread, address);
  else if (sig == SIGSEGV && info.si_code == SI_KERNEL)
    detail = fmt::format("general protection, or no room for a signal frame, at pc {:#x}", pc);
  else if ((sig == SIGILL || sig == SIGFPE || sig == SIGTRAP) && info.si_code > 0)
    detail = fmt::format("at pc {:#x} ({})", pc, where(thread, pc));
  Ending ending = killed_by(sig);
  if (!detail.empty()) ending.message += ": " + detail;
  return ending;
}

Ending killed_by(int sig) {
  std::string message = fmt::format("the guest was ended by {}", signal_name(sig));
  if (const char* text = sigdescr_np(sig)) message += fmt::format(" ({})", text);
  return {Ending::Kind::Signalled, sig, std::move(message)};
}

Ending host_failed(const std::exception& failed) noexcept {
  Ending ending{Ending::Kind::Signalled, SIGKILL, {}};
  try {
    ending.message = fmt::format("the guest was ended: the host cannot serve it ({})", failed.what());
  } catch (const std::bad_alloc&) {
    // Then without a sentence.
  }
  return ending;
}

Ending out_of_memory(Thread& thread) {
  return {Ending::Kind::Signalled, SIGKILL,
          fmt::format("out of memory: the guest used all of --memory {}M", thread.memory().usage().limit_bytes / kMiB)};
}

}  // namespace ramet::vmm
