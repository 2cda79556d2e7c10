// Snapshot: the memory of one VM at one moment, for others to be children of. Lives as long as somebody holds it;
// children stand on its layer by themselves.
#pragma once

#include <memory>
#include <vector>

#include "guest-mm/address_space.hpp"
#include "guest-mm/page_table.hpp"

namespace ramet::mm {

class Snapshot {
 public:
  std::shared_ptr<const Layer> layer;
  Gpa root = 0;                       // of its page table, in the layer
  PageTable::Census census;
  std::vector<Region> regions;
  std::vector<Gva> hot;               // pages that were soon written after earlier freezes
  AddressSpace::Config config;
};

}  // namespace ramet::mm
