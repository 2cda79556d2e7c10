// The engine: see ../engine.hpp.
#include "vmm/soft/dynarmic/make_engine.hpp"

#include <dynarmic/interface/A64/a64.h>
#include <dynarmic/interface/exclusive_monitor.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include "arch/arm64/user_state.hpp"
#include "vmm/soft/dynarmic/callbacks.hpp"

namespace ramet::vmm::soft {
namespace {

namespace arm64 = arch::arm64;
using Dynarmic::HaltReason;

constexpr HaltReason kHalted = HaltReason::UserDefined2;
// Reserved; as much of it is used as code is translated. When it is full, all translated code goes.
constexpr std::size_t kCodeBytes = 64 << 20;

class Recompiler final : public Engine {
 public:
  explicit Recompiler(const GuardedWords& words) : callbacks_(words), monitor_(1) {}
  bool start();

  void bind(Memory& memory) override;
  void unbind() override;
  void load(const arch::UserRegs&) override;
  void store(arch::UserRegs&) const override;
  std::uint64_t thread_pointer() const override { return thread_pointer_; }
  void set_thread_pointer(std::uint64_t value) override { thread_pointer_ = value; }
  void load_fp(const arch::FpState&) override;
  void store_fp(arch::FpState&) const override;
  Stop run() override;
  void halt() override { jit_->HaltExecution(kHalted); }
  void forget(std::uint64_t start, std::uint64_t end) override;
  void forget_everything() override;
  void forget_code(const CodePiece&) override;
  bool has_code(std::uint64_t frame) const override { return callbacks_.code.has_frame(frame); }

 private:
  // Drops the code of pages within that may no longer be executed or have changed. `wanted`: asks for them first, by
  // Memory::want_code().
  void review_code(std::uint64_t start, std::uint64_t end, bool wanted);

  Callbacks callbacks_;
  // Of this engine alone: stores of others are noticed by what they have stored, see Callbacks::exchange().
  Dynarmic::ExclusiveMonitor monitor_;
  std::uint64_t thread_pointer_ = 0, read_only_thread_pointer_ = 0;
  std::unique_ptr<Dynarmic::A64::Jit> jit_;
};

bool Recompiler::start() {
  if (!callbacks_.pages.map()) return false;
  Dynarmic::A64::UserConfig c{};
  c.callbacks = &callbacks_;
  c.global_monitor = &monitor_;
  c.tpidr_el0 = &thread_pointer_;
  c.tpidrro_el0 = &read_only_thread_pointer_;
  c.cntfrq_el0 = 1'000'000'000;  // of GetCNTPCT()
  c.wall_clock_cntpct = true;
  c.enable_cycle_counting = false;             // or a branch to itself could not be halted
  c.check_halt_on_memory_access = true;        // an access that faults is then as if not begun
  c.page_table = callbacks_.pages.table();
  c.page_table_address_space_bits = kAddressBits;
  c.silently_mirror_page_table = false;        // addresses beyond, and tagged ones, come to the callbacks
  // Or an access that reaches into the guest's next page would run on in host memory.
  c.detect_misaligned_access_via_page_table = 16 | 32 | 64 | 128;
  c.only_detect_misalignment_via_page_table_on_page_boundary = true;
  c.code_cache_size = kCodeBytes;
  jit_ = std::make_unique<Dynarmic::A64::Jit>(c);
  callbacks_.jit = jit_.get();
  return true;
}

void Recompiler::bind(Memory& memory) {
  callbacks_.memory = &memory;
  callbacks_.pages.forget_everything();
  review_code(0, kAddressEnd, true);
  callbacks_.code.index_frames();
}

void Recompiler::unbind() {
  callbacks_.memory = nullptr;
  callbacks_.code.forget_frames();
}

void Recompiler::load(const arch::UserRegs& r) {
  std::array<std::uint64_t, 31> general;
  std::copy_n(r.word.begin(), general.size(), general.begin());
  jit_->SetRegisters(general);
  jit_->SetSP(r[arm64::Sp]);
  jit_->SetPC(r[arm64::Pc]);
  jit_->SetPstate(static_cast<std::uint32_t>(r[arm64::Pstate] & arm64::pstate::kConditions));
  jit_->ClearExclusiveState();  // as an exception return does
}

void Recompiler::store(arch::UserRegs& r) const {
  std::ranges::copy(jit_->GetRegisters(), r.word.begin());
  r[arm64::Sp] = jit_->GetSP();
  r[arm64::Pc] = jit_->GetPC();
  r[arm64::Pstate] = jit_->GetPstate() & arm64::pstate::kConditions;
}

void Recompiler::load_fp(const arch::FpState& fp) {
  arm64::FpSimd simd;
  std::memcpy(&simd, fp.area.data(), sizeof simd);
  std::array<Vector, 32> vectors;
  std::memcpy(vectors.data(), simd.v.data(), sizeof vectors);
  jit_->SetVectors(vectors);
  jit_->SetFpsr(simd.fpsr);
  jit_->SetFpcr(simd.fpcr);
}

void Recompiler::store_fp(arch::FpState& fp) const {
  const auto vectors = jit_->GetVectors();
  arm64::FpSimd simd{.v = {}, .fpsr = jit_->GetFpsr(), .fpcr = jit_->GetFpcr(), .reserved = {}};
  std::memcpy(simd.v.data(), vectors.data(), sizeof simd.v);
  std::memcpy(fp.area.data(), &simd, sizeof simd);
}

Stop Recompiler::run() {
  for (;;) {
    const HaltReason why = jit_->Run();
    if (!callbacks_.stop) {
      if (Has(why, kHalted)) return {};
      continue;  // code was dropped
    }
    const Stop stop = *std::exchange(callbacks_.stop, std::nullopt);
    switch (stop.kind) {
      case Stop::Kind::Fault:
        if (stop.access != Memory::Access::Execute) break;
        jit_->InvalidateCacheRange(stop.address & ~3ull,
                                   4);  // the recompiler keeps like code that it cannot be fetched
        [[fallthrough]];
      case Stop::Kind::Undefined:
      case Stop::Kind::Breakpoint: jit_->SetPC(stop.address); break;
      default: break;
    }
    return stop;
  }
}

void Recompiler::review_code(std::uint64_t start, std::uint64_t end, bool wanted) {
  const auto stays = [&](std::uint64_t page, const CodePages::Page& was) -> std::optional<CodePages::Page> {
    auto run = callbacks_.memory->look(page, Memory::Access::Execute, 0);
    if (!run && wanted) {
      callbacks_.memory->want_code(page);
      run = callbacks_.memory->look(page, Memory::Access::Execute, 0);
    }
    if (!run) return std::nullopt;
    const auto now = CodePages::Page::of(*run, page, callbacks_.words);
    return was.same(now) ? std::optional(now) : std::nullopt;
  };
  for (const std::uint64_t page : callbacks_.code.remove(start, end, stays))
    jit_->InvalidateCacheRange(page, mm::kPageSize);
}

void Recompiler::forget(std::uint64_t start, std::uint64_t end) {
  callbacks_.pages.forget(start, end);
  review_code(start, end, false);
}

void Recompiler::forget_everything() {
  callbacks_.pages.forget_everything();
  review_code(0, kAddressEnd, false);
}

void Recompiler::forget_code(const CodePiece& piece) {
  for (const std::uint64_t page : callbacks_.code.pages_of(piece.frame)) {
    jit_->InvalidateCacheRange(page + piece.offset, piece.bytes);
    if (piece.bytes < mm::kPageSize) callbacks_.code.patched(page);
    else callbacks_.code.remove(page);
  }
}

}  // namespace

Engine* make_engine(const GuardedWords& words) noexcept try {
  auto engine = std::make_unique<Recompiler>(words);
  return engine->start() ? engine.release() : nullptr;
} catch (const std::exception&) {
  return nullptr;
}

}  // namespace ramet::vmm::soft
