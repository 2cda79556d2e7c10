// Progress of strict flushes. Each host's FlushState derives from it, and says how a flush is carried out.
#pragma once

#include <atomic>
#include <cstdint>

namespace ramet::vmm::kvm {

struct Generations {
  // Advanced by flush(), seq_cst, before it looks which vCPUs are in the guest; pairs with
  // KvmVcpu::announce(), which publishes that it enters before it reads this once more.
  std::atomic<std::uint64_t> generation{1};
  // Up to this generation, one vCPU has done what it does for all (x86-64: touches; arm64: TLBI). Release by that vCPU,
  // acquire by vCPUs that enter.
  std::atomic<std::uint64_t> settled{1};
  void settle(std::uint64_t up_to) {
    std::uint64_t s = settled.load(std::memory_order_relaxed);
    while (s < up_to && !settled.compare_exchange_weak(s, up_to, std::memory_order_release)) {}
  }
};

}  // namespace ramet::vmm::kvm
