// Look-ups and copies of the region tree.
#include "guest-mm/region_tree.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <vector>

namespace ramet::mm {

struct RegionTree::Leaf {
  struct Item {
    Gva start;  // a copy of the region's, so that the search touches this array alone
    const Region* region;
  };
  // How many items' regions start at `address` or below. A binary search without branches, as slot_for(), since every
  // fault does both.
  unsigned up_to(Gva address) const {
    unsigned first = 0, left = count;
    for (; left > 1; left -= left / 2) first += items[first + left / 2 - 1].start <= address ? left / 2 : 0;
    return first + (left == 1 && items[first].start <= address);
  }
  unsigned count = 0;
  std::array<Item, kFanout> items;
};

// The regions of a leaf start at its key or above, and below the next leaf's key. The first key is 0. Only the leaf of
// an empty map is empty.
struct RegionTree::Root {
  explicit Root(std::size_t n) : keys(n), leaves(n) {}
  std::vector<Gva> keys;
  std::vector<std::atomic<Leaf*>> leaves;  // release store by the writer, acquire load by readers
};

RegionTree::RegionTree() : root_(nullptr) {
  auto leaf = std::make_unique<Leaf>();
  auto root = std::make_unique<Root>(1);
  root->leaves[0] = leaf.release();
  root_.store(root.release(), std::memory_order_relaxed);
}

RegionTree::~RegionTree() {
  Root* root = root_.load(std::memory_order_relaxed);
  for (const auto& slot : root->leaves) {
    Leaf* leaf = slot.load(std::memory_order_relaxed);
    for (unsigned i = 0; i < leaf->count; ++i) delete leaf->items[i].region;
    delete leaf;
  }
  delete root;
}

std::size_t RegionTree::slot_for(const Root& root, Gva address) {
  std::size_t slot = 0, left = root.keys.size();
  for (; left > 1; left -= left / 2) slot += root.keys[slot + left / 2] <= address ? left / 2 : 0;
  return slot;
}

const Region* RegionTree::at_or_after(Gva address) const {
  const Root& root = *root_.load(std::memory_order_acquire);
  std::size_t slot = slot_for(root, address);
  const Leaf* leaf = root.leaves[slot].load(std::memory_order_acquire);
  const unsigned i = leaf->up_to(address);
  if (i > 0 && leaf->items[i - 1].region->end > address) return leaf->items[i - 1].region;
  if (i == 0 && slot > 0) {
    // The last region of the leaf before may reach into this leaf's range.
    const Leaf* before = root.leaves[slot - 1].load(std::memory_order_acquire);
    if (before->count > 0 && before->items[before->count - 1].region->end > address)
      return before->items[before->count - 1].region;
  }
  if (i < leaf->count) return leaf->items[i].region;
  if (++slot == root.leaves.size()) return nullptr;
  leaf = root.leaves[slot].load(std::memory_order_acquire);
  return leaf->count > 0 ? leaf->items[0].region : nullptr;
}

const Region* RegionTree::last_below(Gva address) const {
  if (address == 0) return nullptr;
  const Root& root = *root_.load(std::memory_order_acquire);
  std::size_t slot = slot_for(root, address - 1);
  for (;; --slot) {
    const Leaf* leaf = root.leaves[slot].load(std::memory_order_acquire);
    if (const unsigned i = leaf->up_to(address - 1)) return leaf->items[i - 1].region;
    if (slot == 0) return nullptr;
  }
}

void RegionTree::replace_leaf(std::size_t slot, Leaf* leaf) {
  auto& place = root_.load(std::memory_order_relaxed)->leaves[slot];
  Leaf* old = place.load(std::memory_order_relaxed);
  place.store(leaf, std::memory_order_release);
  retired_.add([old] { delete old; });
}

void RegionTree::replace_root(Root* root) {
  Root* old = root_.load(std::memory_order_relaxed);
  root_.store(root, std::memory_order_release);
  retired_.add([old] { delete old; });
}

// All memory is taken before anything changes, here and in erase().
void RegionTree::insert(std::unique_ptr<Region> owned) {
  const Region* region = owned.get();
  Root& root = *root_.load(std::memory_order_relaxed);
  const std::size_t slot = slot_for(root, region->start);
  Leaf* old = root.leaves[slot].load(std::memory_order_relaxed);
  std::array<Leaf::Item, kFanout + 1> all;
  const auto begin = old->items.begin(), end = begin + old->count, at = begin + old->up_to(region->start);
  auto out = std::copy(begin, at, all.begin());
  *out++ = {region->start, region};
  std::copy(at, end, out);
  const unsigned count = old->count + 1;
  auto leaf = std::make_unique<Leaf>();
  if (count <= kFanout) {
    leaf->count = count;
    std::copy_n(all.begin(), count, leaf->items.begin());
    replace_leaf(slot, leaf.release());
    ++size_;
    (void)owned.release();
    return;
  }
  auto right = std::make_unique<Leaf>();
  leaf->count = count / 2;
  right->count = count - leaf->count;
  std::copy_n(all.begin(), leaf->count, leaf->items.begin());
  std::copy_n(all.begin() + leaf->count, right->count, right->items.begin());
  auto next = std::make_unique<Root>(root.keys.size() + 1);
  for (std::size_t i = 0; i < root.keys.size(); ++i) {
    const std::size_t to = i + (i > slot);
    next->keys[to] = root.keys[i];
    next->leaves[to].store(root.leaves[i].load(std::memory_order_relaxed), std::memory_order_relaxed);
  }
  next->keys[slot + 1] = right->items[0].start;
  next->leaves[slot].store(leaf.release(), std::memory_order_relaxed);
  next->leaves[slot + 1].store(right.release(), std::memory_order_relaxed);
  replace_root(next.release());
  retired_.add([old] { delete old; });
  ++size_;
  (void)owned.release();
}

void RegionTree::erase(const Region* region) {
  if (!SequenceCount::changing(region->sequence.read())) region->sequence.begin();
  Root& root = *root_.load(std::memory_order_relaxed);
  const std::size_t slot = slot_for(root, region->start);
  Leaf* old = root.leaves[slot].load(std::memory_order_relaxed);
  if (old->count > 1 || root.leaves.size() == 1) {
    auto leaf = std::make_unique<Leaf>();
    const auto begin = old->items.begin();
    const auto end = std::remove_copy_if(begin, begin + old->count, leaf->items.begin(),
                                         [&](const Leaf::Item& item) { return item.region == region; });
    leaf->count = static_cast<unsigned>(end - leaf->items.begin());
    assert(leaf->count + 1 == old->count);
    replace_leaf(slot, leaf.release());
  } else {
    auto next = std::make_unique<Root>(root.keys.size() - 1);
    for (std::size_t i = 0; i < root.keys.size(); ++i) {
      if (i == slot) continue;
      const std::size_t to = i - (i > slot);
      next->keys[to] = root.keys[i];
      next->leaves[to].store(root.leaves[i].load(std::memory_order_relaxed), std::memory_order_relaxed);
    }
    next->keys[0] = 0;
    replace_root(next.release());
    retired_.add([old] { delete old; });
  }
  --size_;
  retired_.add([region] { delete region; });
}

}  // namespace ramet::mm
