// A machine without a processor, for programs of the host's instruction set: memory and system calls can be driven from
// a test, no guest code runs.
#pragma once

#include <functional>

#include "arch/host_processor.hpp"
#include "vmm/machine.hpp"

namespace ramet::vmm {

class FakeVcpu : public Vcpu {
 public:
  UserRegs& regs() override { return regs_; }
  // What the guest comes out for, one after another; then it is broken.
  std::function<Exit()> script;
  Exit run() override {
    return script ? script() : Exit{.kind = Exit::Kind::Broken, .detail = "a fake vCPU runs nothing"};
  }
  void spurious_fault() override {}
  void kick() override { ++kicks; }
  void set_base(unsigned n, std::uint64_t v) override { bases_[n] = v; }
  std::uint64_t base(unsigned n) override { return bases_[n]; }
  Status get_fp(FpState& s) override {
    s = {};
    return {};
  }
  Status set_fp(const FpState&) override { return {}; }
  void copy_fp(const FpState&) override {}
  void reset_fp() override {}
  const VcpuCounters& counters() const override { return counters_; }
  std::atomic<unsigned> kicks{0};

 private:
  UserRegs regs_ = arch::host_abi().initial_registers();
  arch::Bases bases_{};
  VcpuCounters counters_;
};

class FakeMachine : public Machine {
 public:
  void flush(const mm::FlushRequest&) override {}
  void flush_relaxed(const mm::FlushRequest&) override {}
  mm::Result<> bank_added(const mm::Bank&) override {
    ++banks;
    return {};
  }
  void bank_removed(const mm::Bank&) override { --banks; }
  Status attach(mm::AddressSpace&) override { return {}; }
  std::expected<Vcpu*, Failure> acquire_vcpu() override { return &vcpu; }
  Status make_vcpu() override { return {}; }
  Status warm_up() override { return {}; }
  void release_vcpu(Vcpu*) override {}
  const arch::GuestAbi& abi() const override { return arch::host_abi(); }
  std::span<const std::byte> vdso_image() const override { return arch::host_vdso_image(); }
  const Features& features() const override { return features_; }
  VdsoFunctions host_vdso() const override { return vdso; }
  Totals totals() const override { return {}; }
  FakeVcpu vcpu;
  VdsoFunctions vdso;
  int banks = 0;

 private:
  Features features_{.model_name = "Fake", .flags = "fpu sse2"};
};

}  // namespace ramet::vmm
