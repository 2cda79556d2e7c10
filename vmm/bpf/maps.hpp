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

// Makes a map that is empty, or has the definition's contents. Errors: a type that is not served, sizes that cannot be,
// no memory.
std::expected<Map, Failure> make_map(mm::AddressSpace&, const jit::MapDefinition&);
// Writes the addresses that the contents have to hold; `maps` are those of the same object, in order. Then a read-only
// map becomes so. Errors: an address that leads nowhere, no memory.
Status finish_map(mm::AddressSpace&, const jit::MapDefinition&, const Map&, std::span<const Map> maps);
// Frees a map that no program refers to any more.
void drop_map(mm::AddressSpace&, const Map&);
// Releases the map's lock if the vCPU with that number, which was stopped, holds it; ~0: whichever does, as none runs.
void unlock_map(mm::AddressSpace&, const Map&, std::uint32_t vcpu);
// Takes the records of a ring buffer up to the first that is not complete. One caller at a time. Errors: it is no ring
// buffer, or was overwritten.
std::expected<std::vector<std::vector<std::byte>>, Failure> consume_ring(mm::AddressSpace&, const Map&);

}  // namespace ramet::vmm::bpf
