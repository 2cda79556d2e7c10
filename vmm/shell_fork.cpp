// Shell::fork() by a plain copy of what the guest has in memory.
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "vmm/shell.hpp"

namespace ramet::vmm {
namespace {

struct Leaf {
  mm::Gva start;
  mm::Gpa address;
  std::uint64_t bytes;
};

// The private bank's frames by where they are mapped, pages without access (PROT_NONE) included.
std::vector<Leaf> private_leaves(const mm::AddressSpace& space) {
  std::vector<Leaf> leaves;
  const mm::Bank& data = space.memory().data();
  space.dump([&](const mm::AddressSpace::Node& n) {
    if (n.table || n.changing || static_cast<std::int64_t>(n.start) < 0 || !data.contains(n.address)) return;
    const std::uint64_t bytes = arch::span_of(n.level);
    // Frames that lie behind each other are copied at once.
    if (!leaves.empty() && leaves.back().start + leaves.back().bytes == n.start &&
        leaves.back().address + leaves.back().bytes == n.address) {
      leaves.back().bytes += bytes;
    } else {
      leaves.push_back({n.start, n.address, bytes});
    }
  });
  return leaves;
}

// The region as it is in the child, still empty; writable for the copy if it is private.
mm::Result<> map_region(const mm::Region& region, mm::AddressSpace& child) {
  mm::MapRequest request{.address = region.start, .length = region.length(), .prot = region.prot, .fixed = true,
                         .shared = region.shared, .grows_down = region.grows_down, .backing = region.backing,
                         .offset = region.offset, .name = region.name, .max_prot = region.max_prot};
  if (!region.shared) request.prot = mm::Prot::Read | mm::Prot::Write;
  auto at = child.map(request);
  if (!at) return mm::fail(at.error());
  if (region.huge == mm::Region::Huge::Always) return child.advise(region.start, region.length(), mm::Advice::Huge);
  if (region.huge == mm::Region::Huge::Never) return child.advise(region.start, region.length(), mm::Advice::NoHuge);
  return {};
}

mm::Result<> copy(mm::AddressSpace& parent, mm::AddressSpace& child) {
  std::vector<mm::Region> regions;
  parent.visit_regions([&](const mm::Region& r) {
    if (!r.dont_fork) regions.push_back(r);
  });
  for (const mm::Region& region : regions)
    if (auto done = map_region(region, child); !done) return done;
  auto leaves = private_leaves(parent);
  auto region = regions.begin();
  for (const Leaf& leaf : leaves) {
    for (mm::Gva at = leaf.start, end = leaf.start + leaf.bytes; at < end;) {
      while (region != regions.end() && region->end <= at) ++region;
      if (region == regions.end()) break;
      at = std::max(at, region->start);
      const mm::Gva stop = std::min(end, region->end);
      if (at >= stop) break;
      if (!region->shared) {
        const std::byte* host = parent.memory().host(leaf.address + (at - leaf.start));
        if (auto done = child.write(at, std::span(host, stop - at)); !done) return done;
      }
      at = stop;
    }
  }
  for (const mm::Region& r : regions) {
    if (r.shared || r.prot == (mm::Prot::Read | mm::Prot::Write)) continue;
    if (auto done = child.protect(r.start, r.length(), r.prot); !done) return done;
  }
  return {};
}

}  // namespace

std::expected<std::unique_ptr<Shell>, Failure> Shell::fork() {
  auto child = another();
  if (!child) return child;
  if (auto done = copy(memory(), (*child)->memory()); !done)
    return failure(fmt::format("the guest's memory cannot be copied: {}", mm::describe(done.error())));
  return child;
}

}  // namespace ramet::vmm
