// System registers as Linux sets them for its programs (arch/arm64/mm/proc.S), and the pages of the stub.
#include "arch/arm64/host/cpu_state.hpp"

#include <algorithm>

#include "arch/arm64/host/stub.hpp"
#include "arch/trap_stub.hpp"

namespace ramet::arch {
namespace arm64 {
namespace {

// SCTLR_EL1: MMU, caches, checks of the stack pointer's alignment; user code may zero lines, maintain caches, read
// CTR_EL0 and wait by WFE. WFI traps, as nothing would ever end it. Reserved bits that must be 1 are set.
constexpr std::uint64_t kControl = 1u << 0 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 12 | 1u << 14 | 1u << 15 | 1u << 18 |
                                   1u << 26 | 1u << 8 | 1u << 11 | 1u << 20 | 1u << 22 | 1u << 23 | 1u << 28 | 1u << 29;

// TCR_EL1: 4 KiB pages; walks are cached and inner shareable; the top byte of user addresses is ignored.
constexpr std::uint64_t kTranslation = 17u << 0 | 1u << 8 | 1u << 10 | 3u << 12 | 17u << 16 | 1u << 24 | 1u << 26 |
                                       3u << 28 | 2ull << 30 | 1ull << 37;
constexpr unsigned kAddressSize = 32, kSetAccessed = 39, kSetDirty = 40;  // bits of it
constexpr std::uint64_t kLargestSize = 5;                                  // 48 bits: what entries hold

}  // namespace

std::array<SystemValue, 10> system_registers(std::uint64_t root, std::uint64_t stub, std::uint64_t memory_model0,
                                             EntryUpdates updates) {
  const std::uint64_t translation = kTranslation | std::min(memory_model0 & 0xf, kLargestSize) << kAddressSize |
                                    std::uint64_t{updates.accessed} << kSetAccessed |
                                    std::uint64_t{updates.accessed && updates.dirty} << kSetDirty;
  return {{
      {{3, 0, 10, 2, 0}, 0xff},         // MAIR_EL1: attribute 0 is normal memory, write-back
      {{3, 0, 2, 0, 2}, translation},   // TCR_EL1
      {{3, 0, 2, 0, 0}, root},          // TTBR0_EL1
      {{3, 0, 2, 0, 1}, root + 256 * 8},  // TTBR1_EL1
      {{3, 0, 12, 0, 0}, stub},         // VBAR_EL1
      {{3, 0, 1, 0, 2}, 3u << 20},      // CPACR_EL1: vector registers
      {{3, 0, 14, 1, 0}, 1u << 1},      // CNTKCTL_EL1: the virtual counter may be read
      {{2, 0, 0, 2, 2}, 1u << 12},      // MDSCR_EL1: no debug channel for user code
      {{3, 3, 13, 0, 3}, 0},            // TPIDRRO_EL0
      {{3, 0, 1, 0, 0}, kControl},      // SCTLR_EL1
  }};
}

}  // namespace arm64

bool write_stub_page(std::span<std::byte> page, std::uint64_t) {
  const auto code = arm64::stub::code();
  if (code.size() > page.size()) return false;
  std::ranges::copy(code, page.begin());
  return true;
}

void write_vcpu_page(std::span<std::byte>, std::uint64_t) {}  // begins as zeroes

}  // namespace ramet::arch
