// Machine: the virtual CPUs and the guest-physical memory of one VM, whatever runs them.
// vmm/kvm has them on KVM, vmm/process in a process of the host, vmm/soft in software; make_machine.hpp chooses.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "arch/guest_abi.hpp"
#include "arch/user_state.hpp"
#include "arch/vdso.hpp"
#include "guest-mm/address_space.hpp"
#include "guest-mm/tlb.hpp"
#include "vmm/error.hpp"

namespace ramet::vmm {

using arch::FpState;
using arch::UserRegs;
using arch::VdsoFunctions;

struct Exit {
  enum class Kind : std::uint8_t {
    Syscall,     // regs() hold number and arguments; the program counter is past the instruction
    PageFault,   // address, access
    Exception,   // signal, code, address, trap, error: any other exception of user code, as Linux tells the program
    Kicked,      // kick() was called, or a host signal arrived; the guest is between two instructions
    HostFault,   // host memory behind a page cannot be reached (its file was truncated): SIGBUS at pc();
                 // which page is not known, address is 0
    Broken,      // the machine cannot go on (triple fault, KVM error); detail says why, for people
  };
  Kind kind = Kind::Kicked;
  mm::Gva address = 0;         // PageFault: what was accessed. Exception: si_addr
  mm::Access access = mm::Access::Read;
  bool by_fault = false;       // Syscall: this host's SYSCALL does not enter ring 0 by itself
  bool present = false;        // PageFault: the hardware saw a present entry (protection, not absence)
  int signal = 0, code = 0;    // Exception: si_signo and si_code
  std::uint32_t trap = 0;      // the processor's number of the exception, and its error code: for the signal frame
  std::uint64_t error = 0;
  std::string detail;          // Broken and HostFault, for people
};

// Counters of one vCPU, read by other threads while it runs.
struct VcpuCounters {
  mm::Counter syscalls, page_faults, exceptions, kicks;
  mm::Counter flushes;         // local flushes done on entry
  mm::Counter spurious;        // faults on translations that a relaxed flush had left stale
  mm::Counter flush_exits;     // runs of the stub that only served a flush

  // Counts an exit that run() returns.
  void count(Exit::Kind kind) {
    switch (kind) {
      case Exit::Kind::Syscall: syscalls.add(); break;
      case Exit::Kind::PageFault: page_faults.add(); break;
      case Exit::Kind::Exception: exceptions.add(); break;
      case Exit::Kind::Kicked: kicks.add(); break;
      case Exit::Kind::HostFault:
      case Exit::Kind::Broken: break;
    }
  }
};

// One virtual CPU, driven by one host thread at a time; kick() by any thread.
class Vcpu {
 public:
  virtual ~Vcpu() = default;

  // Complete user-mode state while the guest is not running; edit it to change where run() continues.
  virtual UserRegs& regs() = 0;

  // Enters the guest with regs() and comes back with the next exit, regs() updated. Entries changed
  // before the call are honoured. Never returns Exit::Kind::Syscall for a jump to the stub's address.
  virtual Exit run() = 0;

  // To be called when the entry already allowed the access of the last PageFault. If permission was given since this
  // vCPU last dropped all its translations, it drops them before it runs again.
  virtual void spurious_fault() = 0;

  // Makes the current run(), or else the next one, return Kicked. From any thread, and from a signal
  // handler. Returns at once; does not wait.
  virtual void kick() = 0;

  // Bases for thread-local storage, see Bases; n is less than the ABI's count. They take effect with the next run().
  // base() reads the live value (the guest may have changed it by WRFSBASE).
  virtual void set_base(unsigned n, std::uint64_t) = 0;
  virtual std::uint64_t base(unsigned n) = 0;

  // Floating-point and vector state, see FpState. Errors: the machine cannot go on; of set_fp() also: components that
  // this machine does not have.
  virtual Status get_fp(FpState&) = 0;
  virtual Status set_fp(const FpState&) = 0;
  // As set_fp(), of a state that another vCPU's get_fp() gave; the next run() loads it and reports errors.
  virtual void copy_fp(const FpState&) = 0;
  virtual void reset_fp() = 0;  // the state execve(2) gives

  // Whether guest code runs on a host thread of its own, not on the one that calls run(). The next three functions are
  // about that thread; any thread may call them.
  virtual bool elsewhere() const { return false; }
  // Its processor time since acquire_vcpu(); never goes back.
  virtual std::chrono::nanoseconds time_elsewhere() { return {}; }
  // Sets its nice value, as setpriority(2). Returns 0 or errno. release_vcpu() resets it, if the host allows that.
  virtual int set_nice(int) { return 0; }
  // Sets the processors that it may run on, as sched_setaffinity(2). Returns 0 or errno. acquire_vcpu() resets them.
  virtual int set_affinity(std::span<const std::byte>) { return 0; }

  virtual const VcpuCounters& counters() const = 0;
};

// The machine is the address space's Tlb and its memory's BankObserver.
class Machine : public mm::Tlb, public mm::BankObserver {
 public:
  ~Machine() override = default;

  // The ABI of the guests that it runs, and the image of their vDSO, at most VDSO_PAGE bytes.
  virtual const arch::GuestAbi& abi() const = 0;
  virtual std::span<const std::byte> vdso_image() const = 0;

  // What must be known before the guest's memory is made.
  struct Needs {
    bool files = false;  // banks in memory files, which it maps into another process
    mm::Format format = mm::Format::X86_64Stage1;  // of the page tables
  };
  virtual Needs needs() const { return {}; }

  // Installs stub, descriptor tables and the linear map of the table bank into the address space.
  // Once, after the address space was created on this machine and before the first vCPU. Errors: no frames left, or the
  // host refuses.
  virtual Status attach(mm::AddressSpace&) = 0;

  // Makes beforehand the vCPU that the next acquire_vcpu() gives; it does not run. After attach(). Errors: too many.
  virtual Status make_vcpu() = 0;
  // Does in advance what the first entry of the first vCPU would have to. After attach(). Errors: as of acquire_vcpu();
  // the host refuses what that entry takes.
  virtual Status warm_up() = 0;
  // Whether making a machine takes longer than many programs run. Then warm ones are made only for a program that has
  // run for a while.
  virtual bool slow_to_make() const { return false; }

  // The program's name, before its first vCPU: a hint for a machine that keeps translated code.
  virtual void will_run(std::string_view program) { (void)program; }

  // A vCPU for one guest thread, with the ABI's initial registers, FP state as after execve. It stays the machine's,
  // and is the caller's to use until release_vcpu(). Reuses a released one where it can (KVM cannot delete vCPUs). From
  // any thread. Errors: too many; no memory on the host.
  virtual std::expected<Vcpu*, Failure> acquire_vcpu() = 0;
  // Gives the vCPU back: no thread is in run() or will call it again. From any thread.
  virtual void release_vcpu(Vcpu*) = 0;

  // Hints for machines whose translations are dear: the addresses whose translations were made last, handed from one
  // machine to another that is about to run the same memory.
  virtual std::vector<mm::Gva> touched() const { return {}; }
  virtual void expect(std::span<const mm::Gva>) {}

  // Discards all execution state, even of a guest that compromised its host process. No vCPU is in use; Vcpu pointers
  // become invalid. Errors: no host process.
  virtual Status renew() { return {}; }

  // Ends the host process that has run guest code until now, whatever the guest has made of it; vCPUs go on in a fresh
  // one where they are. They may be in use, and run, meanwhile; a run() may return Kicked because of it. Errors: no
  // host process; then nothing has changed.
  virtual Status move_on() { return {}; }

  // What the guest sees: AT_HWCAP, AT_HWCAP2 and what there is of FpState.
  struct Features {
    std::uint64_t hwcap = 0, hwcap2 = 0;
    arch::FpFormat fp{};
    std::string model_name;  // for /proc/cpuinfo
    std::string flags;  // for /proc/cpuinfo, space-separated
    bool giant_pages = false;  // 1 GiB leaves
    unsigned physical_bits = 40;  // of guest-physical addresses
    // Nothing sets accessed and dirty bits while guest code runs, or only a fault in the host does: entries that have
    // them from the start are cheaper.
    bool dear_accessed_dirty = false;
  };
  virtual const Features& features() const = 0;

  // Random numbers that place code: the program, mappings (libraries), the vDSO. Drawn anew for each program, except on
  // a machine that identifies code by its address.
  struct CodePlaces {
    std::uint64_t program = 0, mappings = 0, vdso = 0;
    static CodePlaces draw();
  };
  virtual CodePlaces code_places() const { return CodePlaces::draw(); }

  // Addresses at which guest code can call the host's own vDSO: above the user end, the same in all machines of this
  // kind. All 0: it cannot, or is not known to read the same time there as host code. After attach().
  virtual VdsoFunctions host_vdso() const { return {}; }

  // Sums over all vCPUs that ever ran. totals() may be called by any thread, while vCPUs run.
  struct Totals {
    std::uint64_t syscalls, page_faults, exceptions, kicks, flushes, spurious, flush_exits;
    // Of a machine with a translation cache filled by software: fills, mappings that flushes made anew, how often it
    // dropped all for want of room, and the mappings that there are now.
    std::uint64_t fills, refills, evictions, mappings;
    std::uint64_t exits() const { return syscalls + page_faults + exceptions + kicks + flush_exits; }
    void add(const VcpuCounters&);
    Totals& operator+=(const Totals&);
  };
  virtual Totals totals() const = 0;
};

}  // namespace ramet::vmm
