#include "tools/dump.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tools/report.hpp"
#include "vmm/linux/proc/content.hpp"

namespace ramet::tools {
namespace {

using arch::Level;

constexpr std::string_view kLevelNames[] = {"PTE", "PMD", "PUD", "PGD"};
constexpr std::string_view kLeafNames[] = {"4K", "2M", "1G"};

// Where what is mapped at [start, end) is counted.
Mapped& owner(Dump& dump, mm::Gva start, mm::Gva end) {
  if (start >> 63) return dump.ring0;
  const auto region = std::ranges::upper_bound(dump.regions, start, {}, &Dump::Region::end);
  return region != dump.regions.end() && region->start < end ? region->mapped : dump.elsewhere;
}

nlohmann::ordered_json to_json(const Mapped& m) {
  nlohmann::ordered_json j;
  for (std::size_t i = 0; i < m.leaves.size(); ++i) j[kLeafNames[i]] = m.leaves[i];
  j["kept-pages"] = m.kept_pages;
  j["tables"] = m.tables;
  return j;
}

std::string row(const Mapped& m, std::string_view name) {
  return fmt::format("{:>9}{:>9}{:>6}{:>9}{:>8}   {}\n", m.leaves[0], m.leaves[1], m.leaves[2], m.kept_pages, m.tables,
                     name);
}

bool is_empty(const Mapped& m) { return m.tables + m.leaves[0] + m.leaves[1] + m.leaves[2] == 0; }

}  // namespace

Dump take_dump(const mm::AddressSpace& space) {
  Dump dump;
  space.visit_regions([&](const mm::Region& r) { dump.regions.push_back({r.start, r.end, vmm::maps_line(r), {}}); });
  // It only counts: guest threads that need freed tables wait until it is over.
  space.dump([&](const mm::AddressSpace::Node& n) {
    Dump::Tables& level = dump.levels[static_cast<std::size_t>(n.level)];
    const std::uint64_t span = arch::span_of(n.level);
    if (n.table) {
      ++level.tables;
      level.entries += n.entries;
      ++owner(dump, n.start, n.start + span * arch::kEntriesPerTable).tables;
    } else if (n.changing) {
      ++level.changing;
    } else {
      ++level.leaves;
      Mapped& mapped = owner(dump, n.start, n.start + span);
      ++mapped.leaves[static_cast<std::size_t>(n.level)];
      if (n.kept) mapped.kept_pages += span >> mm::kPageShift;
    }
  });
  dump.usage = space.usage();
  dump.counters = vmm::list(space.counters());
  return dump;
}

std::string to_text(const Dump& dump) {
  std::string out = dump.ended ? fmt::format("\n Address space at the end, after {:.6f} s:\n", dump.seconds)
                               : fmt::format("\n Address space after {:.6f} s:\n", dump.seconds);
  out += fmt::format("\n{:>9}{:>9}{:>6}{:>9}{:>8}   region\n", "4K", "2M", "1G", "kept", "tables");
  for (const auto& r : dump.regions) out += row(r.mapped, r.line);
  out += row(dump.ring0, "the VMM's own, for ring 0");
  if (!is_empty(dump.elsewhere)) out += row(dump.elsewhere, "mapped meanwhile");
  out += fmt::format("\n{:>9}{:>9}{:>9}{:>9}{:>10}\n", "level", "tables", "entries", "leaves", "changing");
  for (std::size_t i = dump.levels.size(); i-- > 0;) {
    const auto& l = dump.levels[i];
    out += fmt::format("{:>9}{:>9}{:>9}{:>9}{:>10}\n", kLevelNames[i], l.tables, l.entries, l.leaves, l.changing);
  }
  return out + "\n" + lines(dump.usage) + "\n" + lines(dump.counters) + "\n";
}

nlohmann::ordered_json to_json(const Dump& dump) {
  nlohmann::ordered_json j;
  j["seconds"] = dump.seconds;
  j["ended"] = dump.ended;
  auto& regions = j["regions"] = nlohmann::ordered_json::array();
  for (const auto& r : dump.regions) {
    nlohmann::ordered_json region = {{"start", r.start}, {"end", r.end}, {"maps", r.line}};
    region.update(to_json(r.mapped));
    regions.push_back(std::move(region));
  }
  j["ring0"] = to_json(dump.ring0);
  j["elsewhere"] = to_json(dump.elsewhere);
  for (std::size_t i = dump.levels.size(); i-- > 0;) {
    const auto& l = dump.levels[i];
    j["levels"][kLevelNames[i]] = {{"tables", l.tables},
                                   {"entries", l.entries},
                                   {"leaves", l.leaves},
                                   {"changing", l.changing}};
  }
  j["frames"] = to_json(dump.usage);
  j["memory"] = to_json(dump.counters);
  return j;
}

}  // namespace ramet::tools
