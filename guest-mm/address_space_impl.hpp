// Inside of the address space: a core of regions, tables and frames under one lock, and the parts that work on it. A
// part knows the core and those parts that its constructor names; lines lead from these to it.
//
//   SpaceCore ─┬─ EntryRules ─┬─ CopyOnWrite ── Faults ── UserMemory ── Pinning ── Layers
//              │              ├─ Migration        │
//              │              └─ Merges           │
//              ├─ KernelMappings ──┘              │
//              └─ SharedBanks ──┬─────────────────┘
//                               └─ Mappings
//
// AddressSpace's own functions stand in the files of the parts that they are about.
#pragma once

#include "guest-mm/copy_on_write.hpp"
#include "guest-mm/entry_rules.hpp"
#include "guest-mm/faults.hpp"
#include "guest-mm/kernel_mappings.hpp"
#include "guest-mm/layers.hpp"
#include "guest-mm/mappings.hpp"
#include "guest-mm/merges.hpp"
#include "guest-mm/migration.hpp"
#include "guest-mm/pinning.hpp"
#include "guest-mm/shared_banks.hpp"
#include "guest-mm/space_core.hpp"
#include "guest-mm/user_memory.hpp"

namespace ramet::mm {

struct AddressSpace::Impl {
  Impl(const Config& c, Memory& m, Tlb& t, Counters& n) : core(c, m, t, n) {}

  SpaceCore core;
  EntryRules rules{core};
  SharedBanks banks{core};
  Mappings mappings{core, banks};
  KernelMappings kernel{core};
  Merges merges{core, rules, kernel};
  CopyOnWrite copies{core, rules};
  Faults faults{core, rules, banks, copies};
  UserMemory user{core, faults};
  Pinning pinning{core, rules, copies, user};
  Layers layers{core, rules, banks, copies, pinning};
  Migration migration{core, rules};
};

}  // namespace ramet::mm
