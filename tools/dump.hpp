// What an address space looks like at a moment: regions, page tables by level, frames, counters. For `ramet inspect`.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "guest-mm/address_space.hpp"
#include "vmm/run.hpp"

namespace ramet::tools {

// What is mapped in a range of addresses.
struct Mapped {
  std::array<std::uint64_t, 3> leaves{};  // present and kept, by level: 4 KiB, 2 MiB, 1 GiB
  std::uint64_t kept_pages = 0;           // 4 KiB pages of kept leaves: contents behind PROT_NONE
  std::uint64_t tables = 0;               // page tables; each counts for the first region it reaches into
};

struct Dump {
  struct Region {
    mm::Gva start, end;
    std::string line;                     // as in /proc/self/maps
    Mapped mapped;
  };
  struct Tables {
    std::uint64_t tables = 0, entries = 0, leaves = 0, changing = 0;
  };
  double seconds = 0;                     // since the run began
  bool ended = false;
  std::vector<Region> regions;            // by address
  Mapped ring0;                           // the VMM's own mappings
  Mapped elsewhere;                       // of regions that came while we looked
  std::array<Tables, arch::kLevels> levels;
  mm::Usage usage;
  vmm::Counts counters;
};

// Takes the address-space lock for the list of regions and for the usage, not for the tables: while guest threads run,
// the three are of slightly different moments.
Dump take_dump(const mm::AddressSpace&);

std::string to_text(const Dump&);
nlohmann::ordered_json to_json(const Dump&);

}  // namespace ramet::tools
