// Frozen memory: what one VM's memory was when AddressSpace::freeze() was called, for other VMs to be children of. It
// need not outlive its children: each of them holds its layer.
#pragma once

#include <memory>
#include <vector>

#include "guest-mm/address_space.hpp"
#include "guest-mm/page_table.hpp"

namespace ramet::mm {

struct FrozenMemory {
  std::shared_ptr<const Layer> layer;
  Gpa root = 0;  // of its page table, in the layer
  PageTable::Census census;
  std::vector<Region> regions;
  std::vector<Gva> hot;  // pages that were soon written after earlier freezes
  AddressSpace::Config config;
};

}  // namespace ramet::mm
