#include "vmm/exit_cost.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <mutex>

#include "vmm/bpf/guest.hpp"

namespace ramet::vmm {
namespace {

// A function that returns is one exit, and hardly more.
std::uint64_t measure(const MachineChoice& choice) {
  const auto guest = bpf::Guest::create({.memory_bytes = kMinMemory, .techniques = {}, .machine = choice, .timeout = {}, .trace = {}});
  if (!guest) return 0;
  constexpr std::uint8_t kMov0 = 0xb7, kExit = 0x95;
  const auto program = (*guest)->load(jit::Program{.name = "nothing", .section = {}, .instructions = {{.opcode = kMov0}, {.opcode = kExit}}});
  if (!program) return 0;
  std::array<std::uint64_t, 33> times;
  for (std::uint64_t& t : times) {
    const auto begin = std::chrono::steady_clock::now();
    if ((*guest)->call(*program).kind != bpf::Outcome::Kind::Returned) return 0;
    t = static_cast<std::uint64_t>(std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count());
  }
  std::ranges::nth_element(times, times.begin() + times.size() / 2);
  return times[times.size() / 2];
}

}  // namespace

std::uint64_t exit_cost(const MachineChoice& choice) {
  static std::mutex lock;
  static std::map<std::pair<MachineChoice::Kind, bool>, std::uint64_t> known;
  std::lock_guard guard(lock);
  const auto [at, fresh] = known.try_emplace({choice.kind, choice.hardened}, 0);
  if (fresh) {
    MachineChoice other = choice;
    other.engines = {};  // those of the guest keep what they know
    at->second = measure(other);
  }
  return at->second;
}

}  // namespace ramet::vmm
