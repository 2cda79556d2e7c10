// Who holds pins for a process, and what that costs.
#include "vmm/linux/files/pin_holders.hpp"

#include <algorithm>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/process.hpp"

namespace ramet::vmm {

void Devices::add(const std::shared_ptr<PinHolder>& holder) {
  LockGuard guard(lock_);
  if (std::ranges::any_of(holders_, [&](const auto& h) { return !h.owner_before(holder) && !holder.owner_before(h); }))
    return;
  // Sweeps when the list is about to grow: at most half of it is dead then.
  if (holders_.size() == holders_.capacity()) std::erase_if(holders_, [](const auto& h) { return h.expired(); });
  holders_.push_back(holder);
}

std::vector<std::shared_ptr<PinHolder>> Devices::all() {
  std::vector<std::shared_ptr<PinHolder>> holders;
  LockGuard guard(lock_);
  for (const auto& weak : holders_)
    if (auto holder = weak.lock()) holders.push_back(std::move(holder));
  return holders;
}

void Devices::let_go() {
  for (const auto& holder : all()) holder->let_go();
}

void Devices::refresh() {
  if (!watched.load(std::memory_order_relaxed)) return;
  for (const auto& holder : all()) holder->refresh();
}

void let_go_of_pins(Process& process) { process.files.state().devices->let_go(); }

std::vector<std::pair<std::string, std::uint64_t>> device_counters(Process& process) {
  const auto& c = process.files.state().devices->counters();
  std::vector<std::pair<std::string, std::uint64_t>> counts{
      {"uring:submitted", c.submitted}, {"uring:completed", c.completed},     {"uring:refused", c.refused},
      {"uring:async", c.async},         {"uring:overflows", c.overflows},     {"uring:bytes", c.bytes},
      {"uring:fixed", c.fixed},         {"uring:fixed-plain", c.fixed_plain}, {"uring:unregistered", c.unregistered}};
  std::erase_if(counts, [](const auto& count) { return count.second == 0; });
  return counts;
}

}  // namespace ramet::vmm
