// A processor on which nothing takes time but what has a price: for policies whose cost is to be known without any
// jitter.
#pragma once

#include <fmt/format.h>

#include <string>

#include "guest-mm/address_space.hpp"

namespace ramet::tools {

// Nanoseconds: to sync 4 KiB, of an instruction fault, and to copy an entry's memory.
struct Prices {
  double sync = 0, fault = 0, copy_page = 0, copy_block = 0;
};
// From the proposal's figures (Khandual, "mm: Introduce lazy exec permission setting on a page", 2019): of moving
// pages, lazy's time is that of the copies, and eager's excess that of the syncs; running takes a sync and a fault more
// if lazy.
inline constexpr Prices kSeed{.sync = 3800, .fault = 1300, .copy_page = 4000, .copy_block = 490'000};
// With erratum 1542419, by the figure that others have published for a page.
inline constexpr Prices kNeoverseN1{.sync = 88'000,
                                    .fault = kSeed.fault,
                                    .copy_page = kSeed.copy_page,
                                    .copy_block = kSeed.copy_block};

class PricedTlb final : public mm::Tlb {
 public:
  explicit PricedTlb(const Prices& prices) : prices_(prices) {}
  void flush(const mm::FlushRequest&) override {}
  void flush_relaxed(const mm::FlushRequest&) override {}
  void exec_sync(mm::Gpa, std::uint64_t bytes) override {
    spend(prices_.sync * static_cast<double>(bytes) / mm::kPageSize);
  }
  bool needs_exec_sync() const override { return true; }
  std::uint64_t now() const override { return static_cast<std::uint64_t>(clock_); }
  void spend(double ns) { clock_ += ns; }
  double clock() const { return clock_; }

 private:
  const Prices prices_;
  double clock_ = 0;
};

inline std::string ms(double ns) { return fmt::format("{:.2f}", ns / 1e6); }
inline std::string us(double ns) { return fmt::format("{:.2f}", ns / 1e3); }

}  // namespace ramet::tools
