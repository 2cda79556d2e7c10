// Maps of eBPF programs in a guest's memory (map.h), of which the programs and their helpers read and write all.
#pragma once

#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <vector>

#include "guest-mm/address_space.hpp"
#include "jit/program.hpp"
#include "vmm/bpf/map.h"
#include "vmm/error.hpp"

namespace ramet::vmm::bpf {

struct Map {
  std::string name;
  std::uint32_t type = 0, key_size = 0, value_size = 0, max_entries = 0;
  mm::Gva header = 0;        // struct map
  mm::Gva data = 0;          // its values, of arrays
  std::uint64_t bytes = 0;   // from the header's page on: all that it is
};

// Empty, or with the definition's contents. Errors: a type that is not served, sizes that cannot be, no memory.
std::expected<Map, Failure> make_map(mm::AddressSpace&, const jit::MapDefinition&);
// Addresses in the contents; `maps` are those of the same object, in order. Then what is read-only becomes so.
Status finish_map(mm::AddressSpace&, const jit::MapDefinition&, const Map&, std::span<const Map> maps);
// Nobody refers to it any more.
void drop_map(mm::AddressSpace&, const Map&);
// The vCPU with that number was stopped somewhere: what it had locked is not locked any more. ~0: none runs.
void unlock_map(mm::AddressSpace&, const Map&, std::uint32_t vcpu);
// The records of a ring buffer that are complete, up to one that is not, which count as consumed. One caller at a time.
// Errors: what stands there is no ring buffer.
std::expected<std::vector<std::vector<std::byte>>, Failure> consume_ring(mm::AddressSpace&, const Map&);

}  // namespace ramet::vmm::bpf
