#include "vmm/counters.hpp"

#include <numeric>

#include "guest-mm/counters.hpp"

namespace ramet::vmm {

Counts list(const mm::Counters& c) {
  return {{"faults", c.faults}, {"faults_zero", c.faults_zero}, {"faults_file", c.faults_file},
          {"faults_flipped", c.faults_flipped}, {"faults_cow", c.faults_cow}, {"faults_spurious", c.faults_spurious}, {"faults_refused", c.faults_refused}, {"faults_vmm", c.faults_vmm},
          {"spf", c.spf}, {"spf:pte_lock", c.spf_pte_lock}, {"spf:region_changed", c.spf_region_changed},
          {"spf:not_supported", c.spf_not_supported}, {"spf:table_changed", c.spf_table_changed}, {"spf:budget", c.spf_budget},
          {"pages_mapped", c.pages_mapped}, {"pages_around", c.pages_around}, {"blocks_mapped", c.blocks_mapped},
          {"blocks_around", c.blocks_around}, {"flushes", c.flushes}, {"flushes_relaxed", c.flushes_relaxed},
          {"flush_ranges", c.flush_ranges}, {"flush_tables", c.flush_tables}, {"flushes_avoided", c.flushes_avoided}, {"exec_syncs", c.exec_syncs},
          {"exec_deferred", c.exec_deferred}, {"exec_granted", c.exec_granted},
          {"migrated", std::accumulate(c.migrated.begin(), c.migrated.end(), std::uint64_t{0})}, {"migrate:pinned", c.migrate_pinned},
          {"migrate:shared", c.migrate_shared}, {"migrate:failed", c.migrate_failed},
          {"split:PMD", c.split_pmd}, {"split:PUD", c.split_pud}, {"merge:PMD", c.merge_pmd}, {"merge:PUD", c.merge_pud},
          {"merge:keep-4k", c.merge_refused_keep_4k}, {"merge:region", c.merge_refused_region},
          {"merge:alignment", c.merge_refused_alignment}, {"merge:shared", c.merge_refused_shared}, {"merge:format", c.merge_refused_format},
          {"freezes", c.freezes}, {"resets", c.resets}, {"pages_copied", c.pages_copied},
          {"pages_copied_pinned", c.pages_copied_pinned}, {"pages_moved_pinned", c.pages_moved_pinned},
          {"tables_unshared", c.tables_unshared}, {"tables_allocated", c.tables_allocated}, {"tables_freed", c.tables_freed}};
}

void add(Counts& sum, const Counts& more) {
  if (sum.empty()) sum = more;
  else for (std::size_t i = 0; i < more.size(); ++i) sum[i].second += more[i].second;
}

}  // namespace ramet::vmm
