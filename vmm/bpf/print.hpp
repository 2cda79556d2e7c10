// What programs print: bpf_trace_printk and bpf_trace_vprintk.
#pragma once

#include <cstdint>
#include <expected>
#include <span>
#include <string>

#include "guest-mm/address_space.hpp"

namespace ramet::vmm::bpf {

// The line that a format in the guest's memory, of so many bytes with its zero, makes of these arguments: %d %i %u %x
// %X %o %c %p and %s (of the guest's memory), with flags, width and length; any other conversion stands for itself. At
// most kMostPrinted bytes. Errors: errno.
inline constexpr std::size_t kMostPrinted = 1024;
std::expected<std::string, int> print(mm::AddressSpace&, mm::Gva format, std::uint64_t bytes,
                                      std::span<const std::uint64_t> arguments);

}  // namespace ramet::vmm::bpf
