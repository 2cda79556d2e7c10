#include "vmm/soft/machine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "arch/arm64/guest_abi.hpp"
#include "arch/arm64/hwcap_names.hpp"
#include "arch/arm64/user_state.hpp"
#include "arch/arm64/vdso.hpp"
#include "guest-mm/address_space.hpp"
#include "vmm/soft/vcpu.hpp"

namespace ramet::vmm::soft {
namespace {

// Released vCPUs that keep their engine: threads that come and go find their code translated.
constexpr std::size_t kMostReady = 4;

}  // namespace

std::expected<std::unique_ptr<SoftMachine>, Failure> SoftMachine::create(std::shared_ptr<EnginePool> engines) {
  if (!engines_provided())
    return failure(
        "arm64 programs need the software CPU, which this program was built without: install libdynarmic-dev and build ramet again");
  return std::unique_ptr<SoftMachine>(new SoftMachine(std::move(engines)));
}

SoftMachine::SoftMachine(std::shared_ptr<EnginePool> engines) : engines_(std::move(engines)) {}

SoftMachine::~SoftMachine() {
  LockGuard hold(vcpus_lock_);
  give_back_engines();
}

void SoftMachine::give_back_engines() {
  for (const auto& vcpu : vcpus_)
    if (vcpu->has_engine()) engines_->give(vcpu->take_engine(), program_);
}

void SoftMachine::flush(const mm::FlushRequest& request) {
  LockGuard hold(vcpus_lock_);
  std::vector<std::pair<SoftVcpu*, std::uint32_t>> told;
  told.reserve(vcpus_.size());
  for (const auto& vcpu : vcpus_)
    if (vcpu->has_engine()) told.emplace_back(vcpu.get(), vcpu->note_flush(request.ranges, request.everything));
  for (const auto& [vcpu, seen] : told) vcpu->wait_until_out(seen);
}

void SoftMachine::maintain(mm::Gva address) {
  const auto t = space_->translate(address, 0);
  if (!t) return;  // then nobody has code of it
  const mm::Gva line = mm::align_down(address, SoftVcpu::kLine);
  const mm::Gpa frame = mm::align_down(t->frame + (line - t->start), mm::kPageSize);
  drop_code({frame, static_cast<unsigned>(line % mm::kPageSize), SoftVcpu::kLine});
}

void SoftMachine::exec_sync(mm::Gpa first, std::uint64_t bytes) {
  for (const mm::Gpa end = first + bytes; first < end;) {
    const mm::Gpa frame = mm::align_down(first, mm::kPageSize);
    const std::uint64_t part = std::min(frame + mm::kPageSize, end) - first;
    drop_code({frame, static_cast<unsigned>(first - frame), static_cast<unsigned>(part)});
    first += part;
  }
}

void SoftMachine::drop_code(const CodePiece& piece) {
  LockGuard hold(vcpus_lock_);
  std::vector<std::pair<SoftVcpu*, std::uint32_t>> told;
  for (const auto& vcpu : vcpus_)
    if (vcpu->has_engine() && vcpu->has_code(piece.frame)) told.emplace_back(vcpu.get(), vcpu->note_code(piece));
  for (const auto& [vcpu, seen] : told) vcpu->wait_until_out(seen);
}

void SoftMachine::will_run(std::string_view program) {
  LockGuard hold(vcpus_lock_);
  program_ = EnginePool::program(program);
}

std::expected<Vcpu*, Failure> SoftMachine::acquire_vcpu() {
  SoftVcpu* vcpu = nullptr;
  EnginePool::Program program;
  {
    LockGuard hold(vcpus_lock_);
    program = program_;
    // If there is one, a vCPU that has kept its engine.
    const auto ready = std::ranges::find_if(free_, [](const SoftVcpu* v) { return v->has_engine(); });
    if (!free_.empty()) {
      const auto at = ready != free_.end() ? ready : free_.begin();
      vcpu = *at;
      free_.erase(at);
    }
    if (vcpu && vcpu->has_engine()) {
      vcpu->recycle();
      return vcpu;
    }
  }
  auto engine = engines_->take(program);
  LockGuard hold(vcpus_lock_);
  if (!engine) {
    if (vcpu) free_.push_back(vcpu);
    return std::unexpected(engine.error());
  }
  if (!vcpu) vcpu = vcpus_.emplace_back(std::make_unique<SoftVcpu>(*this)).get();
  vcpu->give_engine(std::move(*engine));
  vcpu->recycle();
  return vcpu;
}

void SoftMachine::release_vcpu(Vcpu* vcpu) {
  auto* const released = static_cast<SoftVcpu*>(vcpu);
  LockGuard hold(vcpus_lock_);
  free_.push_back(released);
  if (std::ranges::count_if(free_, [](const SoftVcpu* v) { return v->has_engine(); }) >
      static_cast<std::ptrdiff_t>(kMostReady))
    engines_->give(released->take_engine(), program_);
}

Status SoftMachine::renew() {
  const Totals past = totals();
  LockGuard hold(vcpus_lock_);
  past_ = past;
  give_back_engines();
  free_.clear();
  vcpus_.clear();
  return {};
}

const arch::GuestAbi& SoftMachine::abi() const { return arch::arm64::kGuestAbi; }

std::span<const std::byte> SoftMachine::vdso_image() const { return arch::arm64::vdso_image(); }

const Machine::Features& SoftMachine::features() const {
  using arch::arm64::hwcap;
  static const Features features = [] {
    Features f;
    f.hwcap = hwcap("fp") | hwcap("asimd") | hwcap("aes") | hwcap("pmull") | hwcap("sha1") | hwcap("sha2") |
              hwcap("crc32") | hwcap("atomics");
    f.fp = arch::arm64::kFpFormat;
    f.model_name = "ramet software CPU (ARMv8.0 with LSE)";
    f.flags = arch::arm64::feature_names(f.hwcap, f.hwcap2);
    f.physical_bits = 46;
    // Nobody sets accessed and dirty bits while guest code runs: entries have them from the start.
    f.dear_accessed_dirty = true;
    return f;
  }();
  return features;
}

Machine::Totals SoftMachine::totals() const {
  LockGuard hold(vcpus_lock_);
  Totals t = past_;
  for (const auto& v : vcpus_) {
    t.add(v->counters());
    t.fills += v->fills();
  }
  return t;
}

}  // namespace ramet::vmm::soft
