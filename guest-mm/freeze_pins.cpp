// What a freeze does about pinned pages: the space keeps their frames, and children get copies.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "guest-mm/pinning.hpp"

namespace ramet::mm {

using State = PageTable::State;
using Level = PageTable::Level;

// All pinned pages that are mapped, with their addresses.
std::vector<Pinning::PinnedPage> Pinning::find_pinned_locked() {
  std::vector<PinnedPage> pages;
  core_.pins->visit([&](Gpa frame, Gva at) {
    if (!core_.frames->apart(frame)) pages.push_back({.at = at, .frame = frame, .copy = 0});
  });
  // All pages of the pin bank, pinned now or not: the bank is in no layer, so children get copies.
  core_.frames->visit_apart([&](Gpa frame) {
    pages.push_back({.at = core_.pins->last_place(frame).value_or(0), .frame = frame, .copy = 0});
  });
  const auto moved = std::ranges::partition(pages, [&](const PinnedPage& p) {
    const PageTable::Leaf l = core_.table->find(p.at);
    return l.state != State::Absent && p.frame - l.address < l.span() && p.frame - l.address == p.at - l.start;
  });
  if (!moved.empty()) {
    // Moved by mremap since pinning, or unmapped: children do not get the latter.
    constexpr Gva kNowhere = ~Gva{0};
    for (PinnedPage& p : moved) p.at = kNowhere;
    std::ranges::sort(moved, {}, &PinnedPage::frame);
    core_.table->visit(0, core_.config.end, [&](const PageTable::Leaf& l) {
      for (auto p = std::ranges::lower_bound(moved, l.address, {}, &PinnedPage::frame);
           p != moved.end() && p->frame - l.address < l.span(); ++p)
        p->at = l.start + (p->frame - l.address);
    });
    std::erase_if(pages, [](const PinnedPage& p) { return p.at == kNowhere; });
  }
  std::ranges::sort(pages, {}, &PinnedPage::at);
  return pages;
}

// How many tables copy_root() and keep_pinned_locked() will take: a root, and those on the way to all pages.
static std::uint64_t tables_for(const std::vector<Pinning::PinnedPage>& pages) {
  std::uint64_t needed = 1;
  for (std::size_t i = 0; i < pages.size(); ++i) {
    for (const Level level : {Level::Pmd, Level::Pud, Level::Pgd}) {
      const std::uint64_t span = arch::span_of(level);
      needed += i == 0 || pages[i].at / span != pages[i - 1].at / span;
    }
  }
  return needed;
}

Result<std::vector<Pinning::PinnedPage>> Pinning::pinned_pages_locked(FlushBatch& batch) {
  std::vector<PinnedPage> pages = find_pinned_locked();
  Result<> done;
  std::size_t copies = 0;
  for (PinnedPage& p : pages) {
    if (done = core_.table->unshare(p.at, Level::Pte, batch); !done) break;
    if (done = core_.table->split_to(p.at, Level::Pte, batch); !done) break;
    const auto copy = core_.frames->allocate(0, Fill::Overwrite);
    if (!copy) {
      done = fail(copy.error());
      break;
    }
    p.copy = copy->gpa;
    ++copies;
    const PageTable::Leaf leaf = core_.table->find(p.at);
    p.table = leaf.table;
    p.attributes = leaf.attributes;
  }
  if (done) done = core_.tables->reserve(tables_for(pages));
  if (done) return pages;
  for (std::size_t i = 0; i < copies; ++i) core_.frames->free(pages[i].copy, 1);
  return fail(done.error());
}

void Pinning::keep_pinned_locked(const std::vector<PinnedPage>& pages, FlushBatch& batch) {
  for (const PinnedPage& p : pages) {
    // Unguarded: both frames are of the private bank, which is never unmapped; pins of other memory are not counted.
    std::memcpy(core_.memory.data().at(p.copy), core_.memory.data().at(p.frame), kPageSize);
    core_.counters.pages_copied_pinned.add();
  }
  for (const PinnedPage& p : pages) {
    if (!core_.table->unshare(p.at, Level::Pte, batch)) std::abort();  // pinned_pages_locked() has reserved the tables
    core_.table->update(
        p.at, p.at + kPageSize,
        [&](const PageTable::Leaf& leaf) { return PageTable::Change{leaf.state, p.attributes}; }, batch);
  }
  // A vCPU that still walked the layer's tables would read the copy, while the device writes the page.
  batch.commit();  // before substitute()
  for (const PinnedPage& p : pages) {
    core_.table->substitute(p.table, p.at, p.copy);
    core_.frames->free(p.copy, 1);  // sealed: it stays with the layer until the seal is undone
  }
}

}  // namespace ramet::mm
