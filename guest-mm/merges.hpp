// Merges: uniform tables become larger leaves, so that huge mappings heal.
#pragma once

#include "guest-mm/entry_rules.hpp"
#include "guest-mm/kernel_mappings.hpp"

namespace ramet::mm {

class Merges final : public Merger {
 public:
  Merges(SpaceCore& core, const EntryRules& rules, const KernelMappings& kernel)
      : core_(core), rules_(rules), kernel_(kernel) {}
  // Merges the table of that level around the address, and then the one above it, as far as the rules allow.
  void merge_locked(Gva, arch::Level, FlushBatch&) RAMET_REQUIRES(address_space_lock) override;

 private:
  // Whether all these frames are exclusive, or none is.
  bool one_kind(Gpa first, std::uint64_t span) const;
  SpaceCore& core_;
  const EntryRules& rules_;
  const KernelMappings& kernel_;
};

}  // namespace ramet::mm
