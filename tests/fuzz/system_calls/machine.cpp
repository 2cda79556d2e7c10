#include "tests/fuzz/system_calls/machine.hpp"

#include <algorithm>
#include <deque>

#include "arch/x86_64/guest_abi.hpp"
#include "arch/x86_64/vdso.hpp"
#include "tests/scarce.hpp"

namespace ramet::fuzz {
namespace {

class ScriptMachine;

thread_local Script script;

class ScriptVcpu : public vmm::Vcpu {
 public:
  explicit ScriptVcpu(ScriptMachine& of) : machine_(of) {}
  vmm::UserRegs& regs() override { return regs_; }
  vmm::Exit run() override;
  void spurious_fault() override {}
  void kick() override { kicked_.store(true, std::memory_order_relaxed); }
  void set_base(unsigned n, Word v) override { bases_[n] = v; }
  Word base(unsigned n) override { return bases_[n]; }
  vmm::Status get_fp(vmm::FpState& s) override { return s = {}, vmm::Status{}; }
  vmm::Status set_fp(const vmm::FpState&) override { return {}; }
  void copy_fp(const vmm::FpState&) override {}
  void reset_fp() override {}
  const vmm::VcpuCounters& counters() const override { return counters_; }
  bool used = false;

 private:
  ScriptMachine& machine_;
  vmm::UserRegs regs_ = arch::x86_64::kGuestAbi.initial_registers();
  arch::Bases bases_{};
  std::atomic<bool> kicked_{false};         // pairs: kick() from any thread with run()'s exchange
  vmm::VcpuCounters counters_;
};

class ScriptMachine : public vmm::Machine {
 public:
  explicit ScriptMachine(Run& of) : run_(of) {}
  Run& run() { return run_; }
  mm::AddressSpace& memory() { return *memory_; }
  bool fresh() { return !seen_.exchange(true, std::memory_order_relaxed); }

  void flush(const mm::FlushRequest&) override {}
  void flush_relaxed(const mm::FlushRequest&) override {}
  mm::Result<> bank_added(const mm::Bank&) override { return {}; }
  void bank_removed(const mm::Bank&) override {}
  vmm::Status attach(mm::AddressSpace& memory) override { return memory_ = &memory, vmm::Status{}; }
  std::expected<vmm::Vcpu*, vmm::Failure> acquire_vcpu() override {
    std::lock_guard guard(lock_);
    auto free = std::ranges::find_if(vcpus_, [](const ScriptVcpu& v) { return !v.used; });
    ScriptVcpu& vcpu = free == vcpus_.end() ? vcpus_.emplace_back(*this) : *free;
    vcpu.used = true;
    vcpu.regs() = {};
    ++in_use_;
    return &vcpu;
  }
  vmm::Status make_vcpu() override { return {}; }
  vmm::Status warm_up() override { return {}; }
  void release_vcpu(vmm::Vcpu* vcpu) override {
    std::lock_guard guard(lock_);
    static_cast<ScriptVcpu*>(vcpu)->used = false;
    if (--in_use_ > 0) return;
    test::scarce::Paused paused;
    if (test::scarce::failed) return;         // then it was ended, and is what it was in the middle of the call
    if (const std::string wrong = memory_->audit(); !wrong.empty()) finding("audit: " + wrong);
  }
  const arch::GuestAbi& abi() const override { return arch::x86_64::kGuestAbi; }
  std::span<const std::byte> vdso_image() const override { return arch::x86_64::vdso_image(); }
  const Features& features() const override { return features_; }
  Totals totals() const override { return {}; }

 private:
  Run& run_;
  mm::AddressSpace* memory_ = nullptr;
  std::mutex lock_;                         // guards what follows
  std::deque<ScriptVcpu> vcpus_;
  unsigned in_use_ = 0;
  std::atomic<bool> seen_{false};           // some vCPU has run; pairs with nothing
  Features features_{.fp = {.components = 7, .bytes = 832}, .model_name = "Script", .flags = "fpu sse2"};
};

vmm::Exit ScriptVcpu::run() {
  if (!script.begun()) script.begin(machine_.run(), regs_);  // a new thread of the host, hence of the guest
  machine_.run().exits.fetch_add(1, std::memory_order_relaxed);
  if (kicked_.exchange(false, std::memory_order_relaxed)) return vmm::Exit{};
  return script.next(machine_.memory(), machine_.fresh(), regs_);
}

}  // namespace

void begin_script(Run& run) { script.begin(run); }

std::expected<std::unique_ptr<vmm::Shell>, vmm::Failure> make_script_shell(Run& run,
                                                                           std::shared_ptr<mm::PhysicalSpace> space) {
  if (!space) space = std::make_shared<mm::PhysicalSpace>(40);
  auto machine = std::make_unique<ScriptMachine>(run);
  auto physical = mm::Memory::create({.data_bytes = 64 << 20, .table_bytes = 8 << 20, .space = space});
  if (!physical) return vmm::failure("no memory");
  if (!(*physical)->observe(*machine)) return vmm::failure("no memory");
  mm::AddressSpace::Config config;
  config.limit_bytes = 24 << 20;
  auto memory = mm::AddressSpace::create(config, **physical, *machine);
  if (!memory) return vmm::failure("no memory");
  if (auto attached = machine->attach(**memory); !attached) return std::unexpected(attached.error());
  return std::make_unique<vmm::Shell>(std::move(*physical), std::move(machine), std::move(*memory),
                                      [&run, space] { return make_script_shell(run, space); });
}

}  // namespace ramet::fuzz
