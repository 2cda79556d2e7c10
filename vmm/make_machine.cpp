#include "vmm/make_machine.hpp"

#include <fmt/format.h>

#include "arch/guest_abi.hpp"
#include "arch/host_processor.hpp"
#include "vmm/kvm/kvm_machine.hpp"
#include "vmm/process/machine.hpp"

namespace ramet::vmm {
namespace {

using Kind = MachineChoice::Kind;

std::expected<MadeMachine, Failure> make_process(const MachineChoice& choice, std::string passed_over) {
  auto made = process::ProcessMachine::create(choice.hardened, choice.most_mappings);
  if (!made) return std::unexpected(made.error());
  return MadeMachine{std::move(*made), {.kind = Kind::Process, .abi = choice.abi, .hardened = choice.hardened, .most_mappings = choice.most_mappings}, std::move(passed_over)};
}

}  // namespace

std::string name_of(const MachineChoice& choice) {
  switch (choice.kind) {
    case Kind::Auto: return "auto";
    case Kind::Kvm: return "kvm";
    case Kind::Process: break;
  }
  return choice.hardened ? "process, hardened" : "process";
}

std::expected<MadeMachine, Failure> make_machine(const MachineChoice& asked) {
  const arch::GuestAbi& host = arch::host_abi();
  if (asked.abi && asked.abi != &host)
    return failure(fmt::format("no machine of this host runs programs for {}: use a host that has {} processors", asked.abi->name, asked.abi->name));
  MachineChoice choice = asked;
  choice.abi = &host;
  if (choice.kind == Kind::Process) return make_process(choice, {});
  auto kvm = create_kvm_machine("/dev/kvm", choice.host_clocks);
  if (kvm) return MadeMachine{std::move(*kvm), {.kind = Kind::Kvm, .abi = choice.abi, .host_clocks = choice.host_clocks}, {}};
  if (choice.kind == Kind::Kvm) return failure(fmt::format("{}; or use --machine process", kvm.error().message));
  auto process = make_process(choice, kvm.error().message);
  if (!process) return failure(fmt::format("no machine for a guest: {}; and a confined process: {}", kvm.error().message, process.error().message));
  return process;
}

}  // namespace ramet::vmm
