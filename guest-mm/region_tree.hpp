// Region tree: the regions of one address space in address order, for one writer and many readers without locks.
//
//   root ──> [ key | leaf ] [ key | leaf ] ...         replaced when a leaf is split or becomes empty
//                      └──> [ region* region* ... ]    replaced by every change to it
//
// A B+ tree of two levels, copied on write: what a reader found never changes under it, and is freed after a grace
// period (rcu.hpp). Even the 65530 regions of Linux's limit make a root of a few thousand keys.
#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include "guest-mm/rcu.hpp"
#include "guest-mm/region.hpp"
#include "guest-mm/space_lock.hpp"

namespace ramet::mm {

class RegionTree {
 public:
  RegionTree();
  ~RegionTree();
  RegionTree(const RegionTree&) = delete;
  RegionTree& operator=(const RegionTree&) = delete;

  // --- with the lock, or within an rcu::Reader: then the answer may be out of date, which the sequence count tells ---
  // First region that ends after `address`; null if none.
  const Region* at_or_after(Gva address) const;
  // Last region that starts below `address`; null if none.
  const Region* last_below(Gva address) const;
  std::size_t size() const RAMET_REQUIRES(address_space_lock) { return size_; }

  // --- with the lock ---
  // Precondition: it overlaps no other.
  void insert(std::unique_ptr<Region>) RAMET_REQUIRES(address_space_lock);
  // Takes the region out; its sequence count is odd from now on. Freed when no reader can look at it.
  void erase(const Region*) RAMET_REQUIRES(address_space_lock);
  // What was taken out and not yet freed. The destructor of the result frees it after a grace period, which may take
  // long: the caller destroys the result without the lock.
  rcu::Retired take_retired() RAMET_REQUIRES(address_space_lock) { return std::exchange(retired_, rcu::Retired()); }

 private:
  static constexpr unsigned kFanout = 32;
  struct Leaf;
  struct Root;
  // The slot of the leaf in which a region that starts at `address` belongs.
  static std::size_t slot_for(const Root&, Gva address);
  void replace_leaf(std::size_t slot, Leaf*) RAMET_REQUIRES(address_space_lock);
  void replace_root(Root*) RAMET_REQUIRES(address_space_lock);

  std::atomic<Root*> root_;  // release store by the writer, acquire load by readers
  std::size_t size_ RAMET_GUARDED_BY(address_space_lock) = 0;
  rcu::Retired retired_ RAMET_GUARDED_BY(address_space_lock);
};

}  // namespace ramet::mm
