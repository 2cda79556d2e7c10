// Region: a range of guest-virtual addresses with one protection and one backing (Linux: VMA).
#pragma once

#include <memory>
#include <string>

#include "guest-mm/backing.hpp"
#include "guest-mm/fault_around.hpp"
#include "guest-mm/types.hpp"

namespace ramet::mm {

struct Region {
  Gva start = 0, end = 0;        // page-aligned, end exclusive
  Prot prot = Prot::None;
  bool shared = false;
  bool grows_down = false;
  bool dont_fork = false;
  enum class Huge : std::uint8_t { Default, Always, Never } huge = Huge::Default;
  std::shared_ptr<Backing> backing;  // null: anonymous
  std::uint64_t offset = 0;      // of start, in backing
  std::string name;
  Prot max_prot = kAllProt;      // what protect() may ask for: less for a shared file opened read-only
  AroundState around;            // how recent faults went, see fault_around.hpp

  std::uint64_t length() const { return end - start; }
  bool contains(Gva a) const { return a - start < end - start; }
  std::uint64_t offset_of(Gva a) const { return offset + (a - start); }
  // Writable and executable: entries are one or the other at a time.
  bool flips() const { return has(prot, Prot::Write | Prot::Exec); }
};

// A present page can be read in every format, so any permission gives reading (as Linux on x86 has it).
constexpr bool permits(Prot prot, Access access) {
  return access == Access::Read ? prot != Prot::None : has(prot, needed(access));
}

}  // namespace ramet::mm
