// The pages that take the place of a kernel in a guest, in the formats of the host's own processor: the trap stub's
// (x86_64/host/stub.S, arm64/host/stub.S) and one for each virtual CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ramet::arch {

// Preconditions: page.size() is 4096, all zeroes. `address`: where the page will be mapped for ring 0 / EL1. False: the
// stub is too large.
[[nodiscard]] bool write_stub_page(std::span<std::byte> page, std::uint64_t address);
void write_vcpu_page(std::span<std::byte> page, std::uint64_t address);

}  // namespace ramet::arch
