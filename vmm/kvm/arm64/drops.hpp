// What a flush has processors drop: ranges of pages, or everything.
#pragma once

#include <array>
#include <cstdint>

#include "arch/arm64/host/stub.hpp"
#include "guest-mm/tlb.hpp"

namespace ramet::vmm::kvm {

class Drops {
 public:
  // More pages than these are dropped with everything else. Measured under QEMU's interpreter (7.2, one thread),
  // microseconds of an exit and entry that uses so many pages, without a flush, with one by address, and with one of
  // everything:
  //     pages used   none    1 page   8    16    32    64   all
  //              1    145      155  163   171   187   218   162
  //             64    166      177  189   192   213   239   206
  //            512    305      316  327   337   702   746   322
  // There dropping everything is worth eight to sixteen pages. A processor's page walks are dearer than the
  // interpreter's, two stages deep, and those of every other vCPU of the guest come on top: each finds all its entries
  // gone, not those alone.
  static constexpr std::uint64_t kMostPages = 16;

  bool none() const { return !all_ && ranges_ == 0; }
  void clear() { *this = {}; }
  void add_all() {
    clear();
    all_ = true;
  }
  // Freed tables may be in walk caches, for any address that they served: everything is dropped.
  void add(const mm::FlushRequest& r) {
    if (r.everything || r.frees_tables) add_all();
    for (const auto& range : r.ranges)
      add_range({range.start >> mm::kPageShift, (range.end - range.start) >> mm::kPageShift});
  }
  void add(const Drops& more) {
    if (more.all_) add_all();
    for (unsigned i = 0; i < more.ranges_; ++i) add_range(more.range_[i]);
  }
  void write_to(arch::arm64::stub::Context& c) const {
    c.ranges = ranges_;
    for (unsigned i = 0; i < ranges_; ++i) c.range[i] = range_[i];
  }

 private:
  using Range = arch::arm64::stub::Context::Range;
  void add_range(const Range& r) {
    if (all_ || r.pages == 0) return;
    pages_ += r.pages;
    if (ranges_ == range_.size() || r.pages > kMostPages || pages_ > kMostPages) return add_all();
    range_[ranges_++] = r;
  }

  bool all_ = false;
  unsigned ranges_ = 0;
  std::uint64_t pages_ = 0;
  std::array<Range, STUB_MOST_RANGES> range_{};
};

}  // namespace ramet::vmm::kvm
