#include "vmm/make_machine.hpp"

#include <fmt/format.h>

#include "arch/arm64/guest_abi.hpp"
#include "arch/guest_abi.hpp"
#include "arch/host_processor.hpp"
#include "vmm/kvm/kvm_machine.hpp"
#include "vmm/process/machine.hpp"
#include "vmm/soft/machine.hpp"

namespace ramet::vmm {
namespace {

using Kind = MachineChoice::Kind;

const arch::GuestAbi& kSoftAbi = arch::arm64::kGuestAbi;

bool is_soft(const MachineChoice& c) {
  const bool runs = !c.abi || c.abi == &kSoftAbi;
  return runs && (c.kind == Kind::Soft || (c.kind == Kind::Auto && c.abi && c.abi != &arch::host_abi()));
}

std::expected<MadeMachine, Failure> make_process(const MachineChoice& choice, std::string passed_over) {
  auto made = process::ProcessMachine::create(choice.hardened, choice.most_mappings);
  if (!made) return std::unexpected(made.error());
  return MadeMachine{
      std::move(*made),
      {.kind = Kind::Process, .abi = choice.abi, .hardened = choice.hardened, .most_mappings = choice.most_mappings},
      std::move(passed_over)};
}

std::expected<MadeMachine, Failure> make_soft(const MachineChoice& choice) {
  auto engines = choice.engines ? choice.engines : std::make_shared<soft::EnginePool>();
  auto made = soft::SoftMachine::create(engines);
  if (!made) return std::unexpected(made.error());
  return MadeMachine{std::move(*made), {.kind = Kind::Soft, .abi = choice.abi, .engines = std::move(engines)}, {}};
}

std::unexpected<Failure> not_for(const arch::GuestAbi& abi, const char* why) {
  return failure(fmt::format("no machine of this host runs programs for {}: {}", abi.name, why));
}

}  // namespace

std::string name_of(const MachineChoice& choice) {
  switch (choice.kind) {
    case Kind::Auto: return "auto";
    case Kind::Kvm: return "kvm";
    case Kind::Soft: return "soft";
    case Kind::Process: break;
  }
  return choice.hardened ? "process, hardened" : "process";
}

bool needs_soft_engines(const MachineChoice& choice) { return is_soft(choice) && !soft::engines_provided(); }

std::expected<MadeMachine, Failure> make_machine(const MachineChoice& asked) {
  const arch::GuestAbi& host = arch::host_abi();
  MachineChoice choice = asked;
  if (!choice.abi) choice.abi = choice.kind == Kind::Soft ? &kSoftAbi : &host;
  if (is_soft(choice)) return make_soft(choice);
  if (choice.kind == Kind::Soft)
    return not_for(*choice.abi, "the software CPU runs arm64 programs; leave out --machine soft");
  if (choice.abi != &host)
    return not_for(*choice.abi, choice.abi == &kSoftAbi ? "use --machine soft, the software CPU"
                                                        : "use a host that has such processors");
  if (choice.kind == Kind::Process) return make_process(choice, {});
  auto kvm = create_kvm_machine("/dev/kvm", choice.host_clocks);
  if (kvm)
    return MadeMachine{std::move(*kvm), {.kind = Kind::Kvm, .abi = choice.abi, .host_clocks = choice.host_clocks}, {}};
  if (choice.kind == Kind::Kvm) return failure(fmt::format("{}; or use --machine process", kvm.error().message));
  auto process = make_process(choice, kvm.error().message);
  if (!process)
    return failure(fmt::format("no machine for a guest: {}; and a confined process: {}", kvm.error().message,
                               process.error().message));
  return process;
}

}  // namespace ramet::vmm
