// KvmVcpu: creation, and the registers that do not change with every exit.
#include <fmt/format.h>

#include <cstring>

#include "arch/x86_64/host/stub.hpp"
#include "vmm/kvm/x86_64/ioctl.hpp"
#include "vmm/kvm/x86_64/vcpu.hpp"

namespace ramet::vmm::kvm {

namespace x86 = arch::x86_64;

std::expected<std::unique_ptr<KvmVcpu>, Failure> KvmVcpu::create(KvmMachine& machine, unsigned id) {
  auto v = std::unique_ptr<KvmVcpu>(new KvmVcpu(machine));
  if (auto ok = v->open(machine.vm_, machine.device_, id); !ok) return std::unexpected(ok.error());
  v->run_->kvm_valid_regs = KVM_SYNC_X86_REGS;
  auto page = machine.kernel_.allocate_vcpu_page();
  if (!page) return std::unexpected(page.error());
  v->page_ = *page;
  if (auto ok = set_cpuid(v->fd_, machine.model_, id); !ok) return std::unexpected(ok.error());
  if (machine.has_apic_ && id != 0) {
    kvm_mp_state runnable = {.mp_state = KVM_MP_STATE_RUNNABLE};
    if (int r = call(v->fd_, KVM_SET_MP_STATE, &runnable); r < 0)
      return failure(fmt::format("KVM_SET_MP_STATE: {}", std::strerror(-r)));
  }
  return v;
}

void KvmVcpu::recycle() {
  LockGuard hold(busy_);
  if (std::exchange(untouched_, false)) return;
  regs_ = x86::kGuestAbi.initial_registers();
  bases_ = {}, bases_changed_ = true;
  reset_fp_locked();
  if (in_user_) loaded_ = in_user_ = false;
  std::atomic_ref(run_->immediate_exit).store(0, std::memory_order_seq_cst);
  kicked_.store(false, std::memory_order_relaxed);
}

void KvmVcpu::changed_registers_only() {
  LockGuard hold(busy_);
  regs_ = x86::kGuestAbi.initial_registers();
  untouched_ = true;
}

// At the first use, and when ring 0 is needed although an interruption left the CPU in user code.
Status KvmVcpu::load_ring0() {
  kvm_sregs s;
  if (int r = call(fd_, KVM_GET_SREGS, &s); r < 0) return failure(fmt::format("KVM_GET_SREGS: {}", std::strerror(-r)));
  auto segment = [](std::uint16_t selector, std::uint8_t type, bool code) {
    kvm_segment g = {};
    g.limit = 0xffffffff, g.selector = selector, g.type = type;
    g.present = g.s = g.g = 1, g.l = code, g.db = !code;
    return g;
  };
  constexpr std::uint8_t kCode = 11, kData = 3, kBusyTss = 11;  // accessed
  kvm_segment null = {};
  null.unusable = 1;
  std::uint64_t fs = s.fs.base, gs = s.gs.base;
  s.cs = segment(x86::kKernelCs, kCode, true);
  s.ss = segment(x86::kKernelSs, kData, false);
  s.ds = s.es = s.fs = s.gs = null;
  // The first time bases_ are the newer ones; later user code may have changed the CPU's, and load_bases() loads ours.
  s.fs.base = loaded_ ? fs : bases_[x86::FsBase];
  s.gs.base = loaded_ ? gs : bases_[x86::GsBase];
  if (!loaded_) bases_changed_ = false;
  s.tr = {};
  s.tr.base = page_.address, s.tr.limit = x86::kTssLimit, s.tr.selector = x86::kTss;
  s.tr.type = kBusyTss, s.tr.present = 1;
  s.gdt.base = KernelHalf::kStubPage + x86::kGdtOffset, s.gdt.limit = x86::kGdtLimit;
  s.idt.base = KernelHalf::kStubPage + x86::kIdtOffset, s.idt.limit = x86::kIdtLimit;
  s.cr0 = x86::kCr0, s.cr3 = machine_.kernel_.root(), s.cr4 = machine_.model_.cr4, s.efer = x86::kEfer;
  if (int r = call(fd_, KVM_SET_SREGS, &s); r < 0) return failure(fmt::format("KVM_SET_SREGS: {}", std::strerror(-r)));
  in_user_ = false;
  return {};
}

Status KvmVcpu::prepare() {
  if (!fp_reset_) return fp_reset_;
  if (auto ok = machine_.slots_.tell_late(); !ok) return ok;
  if (!x86::is_canonical(bases_[x86::FsBase]) || !x86::is_canonical(bases_[x86::GsBase]))
    return failure(
        fmt::format("a segment base is not an address: {:#x}, {:#x}", bases_[x86::FsBase], bases_[x86::GsBase]));
  if (!loaded_) {
    if (auto ok = load_ring0(); !ok) return ok;
    MsrList<3> m;
    m.entries[0] = {.index = x86::msr::kStar, .reserved = 0, .data = x86::msr::kStarValue};
    m.entries[1] = {.index = x86::msr::kLstar,
                    .reserved = 0,
                    .data = KernelHalf::kStubPage + x86::stub::syscall_entry()};
    m.entries[2] = {.index = x86::msr::kSfmask, .reserved = 0, .data = x86::msr::kSfmaskValue};
    if (call(fd_, kSetMsrs, &m) != 3) return failure("KVM refused the model-specific registers of SYSCALL");
    if ((machine_.model_.cr4 & x86::cr4::kOsxsave) != 0) {
      kvm_xcrs x = {};
      x.nr_xcrs = 1;
      x.xcrs[0].value = machine_.features().fp.components;
      if (int r = call(fd_, KVM_SET_XCRS, &x); r < 0)
        return failure(fmt::format("KVM_SET_XCRS: {}", std::strerror(-r)));
    }
    loaded_ = true;
  }
  if (fp_copied_) {
    if (auto ok = load_fp(*fp_copied_); !ok) return ok;
  }
  if (auto ok = keep_counter(); !ok) return ok;
  return bases_changed_ ? load_bases() : Status{};
}

Status KvmVcpu::load_bases() {
  MsrList<2> m;
  m.entries[0] = {.index = x86::msr::kFsBase, .reserved = 0, .data = bases_[x86::FsBase]};
  m.entries[1] = {.index = x86::msr::kGsBase, .reserved = 0, .data = bases_[x86::GsBase]};
  if (call(fd_, kSetMsrs, &m) != 2)
    return failure(
        fmt::format("KVM refused the segment bases {:#x} and {:#x}", bases_[x86::FsBase], bases_[x86::GsBase]));
  bases_changed_ = false;
  return {};
}

// User code can change the bases by itself: where CR4 allows it, and where ring 3 runs natively anyway.
void KvmVcpu::read_bases_locked() {
  if (bases_changed_ || !loaded_) return;
  MsrList<2> m;
  m.entries[0].index = x86::msr::kFsBase, m.entries[1].index = x86::msr::kGsBase;
  if (call(fd_, kGetMsrs, &m) == 2) bases_ = {m.entries[0].data, m.entries[1].data};
}

std::uint64_t KvmVcpu::base(unsigned n) {
  LockGuard hold(busy_);
  read_bases_locked();
  return bases_[n];
}

void KvmVcpu::set_base(unsigned n, std::uint64_t value) {
  LockGuard hold(busy_);
  read_bases_locked();  // the other base must not be overwritten with an old value
  bases_[n] = value, bases_changed_ = true;
}

// --- FP state ---

static_assert(sizeof(XsaveArea) == sizeof(FpState::area));
constexpr std::size_t kComponents = 512;  // XSTATE_BV

Status KvmVcpu::load_fp(const FpState& fp) {
  const int r = call(fd_, kSetXsave, const_cast<std::byte*>(fp.area.data()));
  fp_copied_.reset();  // older than what is loaded
  if (r < 0) return failure(fmt::format("KVM_SET_XSAVE: {}", std::strerror(-r)));
  return {};
}

void KvmVcpu::copy_fp(const FpState& fp) {
  auto copy = std::make_unique<FpState>(fp);
  LockGuard hold(busy_);
  fp_copied_ = std::move(copy);
}

Status KvmVcpu::get_fp(FpState& fp) {
  LockGuard hold(busy_);
  return get_fp_locked(fp);
}

Status KvmVcpu::get_fp_locked(FpState& fp) {
  if (fp_copied_) {
    fp = *fp_copied_;
    return {};
  }
  if (int r = call(fd_, kGetXsave, fp.area.data()); r < 0)
    return failure(fmt::format("KVM_GET_XSAVE: {}", std::strerror(-r)));
  // KVM may list components that it gives no guest; x87 and SSE are always there in full.
  std::uint64_t components;
  std::memcpy(&components, &fp.area[kComponents], sizeof components);
  components = (components & machine_.features().fp.components) | 3;
  std::memcpy(&fp.area[kComponents], &components, sizeof components);
  return {};
}

Status KvmVcpu::set_fp(const FpState& fp) {
  FpState copy = fp;
  std::uint64_t header[2];
  std::memcpy(header, &copy.area[kComponents], sizeof header);
  std::uint64_t served = machine_.features().fp.components | 3;
  if (machine_.features().fp.bytes == 0) header[0] = 3, header[1] = 0;  // FXSAVE users have no header
  if ((header[0] & ~served) != 0 || header[1] != 0)
    return failure("the FP state has components that this machine has not");
  std::memcpy(&copy.area[kComponents], header, sizeof header);
  LockGuard hold(busy_);
  return load_fp(copy);
}

void KvmVcpu::reset_fp() {
  LockGuard hold(busy_);
  reset_fp_locked();
}

void KvmVcpu::reset_fp_locked() {
  FpState fp;
  x86::reset(fp);
  fp_reset_ = load_fp(fp);
}

}  // namespace ramet::vmm::kvm
