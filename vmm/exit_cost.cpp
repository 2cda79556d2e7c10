#include "vmm/exit_cost.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <map>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/shell.hpp"

namespace ramet::vmm {
namespace {

// A fetch from an unmapped address exits and does nothing else.
std::uint64_t measure(const MachineChoice& choice) {
  const auto shell = Shell::create(kMinMemory, {}, choice);
  if (!shell) return 0;
  Machine& machine = (*shell)->machine();
  const auto vcpu = machine.acquire_vcpu();
  if (!vcpu) return 0;
  std::array<std::uint64_t, 33> times{};
  bool all = true;
  for (std::uint64_t& t : times) {
    UserRegs& regs = (*vcpu)->regs();
    regs = machine.abi().initial_registers();
    regs[machine.abi().reg.pc] = 0;
    const auto begin = std::chrono::steady_clock::now();
    const Exit e = (*vcpu)->run();
    t = static_cast<std::uint64_t>(std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count());
    all = all && e.kind == Exit::Kind::PageFault;
  }
  machine.release_vcpu(*vcpu);
  std::ranges::nth_element(times, times.begin() + times.size() / 2);
  return all ? times[times.size() / 2] : 0;
}

}  // namespace

std::uint64_t exit_cost(const MachineChoice& choice) {
  static Mutex lock;
  static std::map<std::pair<MachineChoice::Kind, bool>, std::uint64_t> known;
  LockGuard guard(lock);
  const auto [at, fresh] = known.try_emplace({choice.kind, choice.hardened}, 0);
  if (fresh) {
    MachineChoice other = choice;
    other.engines = {};  // the guest's keep their translations
    at->second = measure(other);
  }
  return at->second;
}

}  // namespace ramet::vmm
