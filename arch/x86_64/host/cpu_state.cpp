// Descriptor tables and task segment of the guest's ring 0, in the layout of the Intel SDM, volume 3.
#include "arch/x86_64/host/cpu_state.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "arch/trap_stub.hpp"
#include "arch/x86_64/host/stub.hpp"

namespace ramet::arch {
namespace x86_64 {
namespace {

void put(std::span<std::byte> page, std::size_t offset, std::uint64_t value) {
  std::memcpy(page.subspan(offset, 8).data(), &value, 8);
}

// Accessed bits are set in advance, so that the CPU need not write the table.
constexpr std::array<std::uint64_t, 7> kGdt = {
    0,
    0x00af9b000000ffff,  // 0x08 code, ring 0, 64-bit
    0x00cf93000000ffff,  // 0x10 data, ring 0
    0,
    0,
    0x00cff3000000ffff,  // 0x28 data, ring 3
    0x00affb000000ffff,  // 0x30 code, ring 3, 64-bit
};
static_assert(sizeof kGdt == kGdtLimit + 1);

constexpr unsigned kBreakpoint = 3, kOverflow = 4;

}  // namespace
}  // namespace x86_64

using namespace x86_64;

bool write_stub_page(std::span<std::byte> page, std::uint64_t address) {
  if (stub::size() > kIdtOffset) return false;
  std::ranges::copy(stub::code(), page.begin());
  for (unsigned v = 0; v < stub::kVectors; v++) {
    std::uint64_t handler = address + stub::vector_entry(v);
    // Interrupt gates, so that single-stepping ends at the trap. User code may raise #BP and #OF by instructions. All
    // vectors use the first interrupt stack, so that no trap, not even one between SYSCALL and the first OUT, pushes
    // onto a stack that user code chose.
    std::uint64_t type = v == kBreakpoint || v == kOverflow ? 0xee00 : 0x8e00;
    constexpr std::uint64_t kIst = 1;
    put(page, kIdtOffset + 16 * v,
        (handler & 0xffff) | std::uint64_t(kKernelCs) << 16 | (type | kIst) << 32 | (handler >> 16 & 0xffff) << 48);
    put(page, kIdtOffset + 16 * v + 8, handler >> 32);
  }
  std::memcpy(page.subspan(kGdtOffset, sizeof kGdt).data(), kGdt.data(), sizeof kGdt);
  return true;
}

void write_vcpu_page(std::span<std::byte> page, std::uint64_t address) {
  std::uint64_t stack = address + page.size();
  put(page, 0x04, stack);  // RSP0
  put(page, 0x24, stack);  // IST1
  std::uint16_t no_bitmap = kTssLimit + 1;
  std::memcpy(page.subspan(0x66, 2).data(), &no_bitmap, 2);
}

}  // namespace ramet::arch
