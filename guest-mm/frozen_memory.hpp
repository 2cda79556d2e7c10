// Frozen memory: the memory of a VM as it was when AddressSpace::freeze() was called; other VMs become its children. It
// need not outlive them: each child holds its layer.
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
