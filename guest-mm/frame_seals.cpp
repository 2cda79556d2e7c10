// Frame pool, continued: seals, which give blocks to layers, and the pin bank, which is in no layer.
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "guest-mm/frame_pool.hpp"

namespace ramet::mm {

Result<Gpa> FramePool::allocate_apart() {
  LockGuard guard(lock_);
  if (!account_->take(kPageSize)) return fail(Error::NoMemory);
  auto block = std::ranges::find_if(apart_, [](const Apart& a) { return !a.used.all(); });
  if (block == apart_.end()) {
    Index first = 0;
    bool zero = false;
    const bool taken = take_locked(kBlockOrder, first, zero);
    if (taken && bank_.has_files() && !bank_.renew(gpa(first), gpa(first) + kBlockSize, true)) {
      free_run_locked(first, kBlockOrder, false);
      account_->give(kPageSize);
      return fail(Error::NoMemory);
    }
    if (!taken) {
      account_->give(kPageSize);
      return fail(Error::NoMemory);
    }
    // Few of the block's pages may be used, and the host would give memory for all of them.
    if (zero) (void)::madvise(host(first), kBlockSize, MADV_NOHUGEPAGE);
    sealed_by(gpa(first)).store(kApart, std::memory_order_release);  // pairs with apart()
    block = apart_.insert(apart_.end(), {.first = first, .used = {}});
  }
  Index i = 0;
  while (block->used[i]) ++i;
  block->used.set(i);
  count_used_locked(1);
  return gpa(block->first + i);
}

void FramePool::free_apart_locked(Index i, Index pages) {
  const auto block = std::ranges::find_if(apart_, [&](const Apart& a) { return i - a.first < a.used.size(); });
  for (; pages > 0; ++i, --pages) block->used.reset(i - block->first);
  if (block->used.any()) return;
  const Index first = block->first;
  // If the block cannot be mapped from another file, it stays in the pin bank, empty.
  if (bank_.has_files() && !bank_.renew(gpa(first), gpa(first) + kBlockSize, false)) return;
  apart_.erase(block);
  sealed_by(gpa(first)).store(0, std::memory_order_release);
  free_run_locked(first, kBlockOrder, false);
}

void FramePool::visit_apart(const std::function<void(Gpa)>& see) const {
  LockGuard guard(lock_);
  for (const Apart& block : apart_)
    for (Index i = 0; i < block.used.size(); ++i)
      if (block.used[i]) see(gpa(block.first + i));
}

// Frames of a sealed block are listed with its seal until that is undone. In their own Frame records, as giving frames
// back must not fail.
void FramePool::drop_locked(Index i, Index pages) {
  const std::uint32_t by = sealed_by_[i >> kBlockOrder].load(std::memory_order_relaxed);
  Seal& seal = *std::ranges::find(seals_, by, &Seal::number);
  meta_[i] = {.next = seal.dropped, .prev = pages, .free = 0, .order = 0, .zero = 0};
  seal.dropped = i;
  seal.dropped_frames += pages;
}

Result<> FramePool::renew_locked() {
  constexpr Index kBlock = Index{1} << kBlockOrder;
  if (auto begun = bank_.begin_file(); !begun) return begun;
  for (Index i = 0; i < frames_;) {
    Index end = i;
    while (end < frames_) {
      if (end >= bottom_ && end < top_) end = top_;
      else if (meta_[end].free && meta_[end].order == kBlockOrder && !sealed(end) && !apart(gpa(end))) end += kBlock;
      else break;
    }
    if (end > i) {
      if (auto renewed = bank_.renew(gpa(i), gpa(i) + (std::uint64_t{end - i} << kPageShift), false); !renewed)
        return renewed;
    }
    for (; i < end; i += kBlock) {  // they hold zeroes now
      if (i >= bottom_ && i < top_) continue;
      backed_blocks_ -= !meta_[i].zero;
      meta_[i].zero = 1;
    }
    i = end + kBlock;
  }
  return {};
}

Result<std::vector<Range>> FramePool::seal() {
  LockGuard guard(lock_);
  constexpr Index kBlock = Index{1} << kBlockOrder;
  // The fresh rest of the last block at the bottom is sealed with the block, as free frames. The machine knows them:
  // whole blocks are announced.
  while (!is_aligned(bottom_, kBlock) && bottom_ < top_) {
    const unsigned order = std::countr_zero(bottom_);
    push_locked(bottom_, order, true);
    bottom_ += Index{1} << order;
  }
  if (bank_.has_files()) {
    if (auto renewed = renew_locked(); !renewed) return fail(renewed.error());
  }
  std::vector<Range> parts;
  const std::uint32_t number = last_seal_ + 1;
  // Made first: if then there is no memory for `parts`, this is a seal without a layer, which thaw() undoes.
  Seal& seal = seals_.emplace_back(Seal{.users = {}, .number = number, .lists = {}, .free = 0, .dropped = kNil});
  seal.lists.fill(kNil);
  ++last_seal_;
  for (Index i = 0; i < frames_; i += kBlock) {
    if (i == bottom_) i = top_;  // skips the fresh frames
    if (i >= frames_) break;
    if (sealed(i) || apart(gpa(i))) continue;
    if (meta_[i].free && meta_[i].order == kBlockOrder) {
      sealed_by_[i >> kBlockOrder].store(0, std::memory_order_relaxed);  // the number may be of a seal undone long ago
      continue;
    }
    // Release: pairs with exclusive(). A fault that saw the frame as exclusive before may still be making an entry for
    // it writable; the caller waits for such faults (Layers::freeze()).
    sealed_by_[i >> kBlockOrder].store(number, std::memory_order_release);
    if (!parts.empty() && parts.back().end == gpa(i)) parts.back().end += kBlockSize;
    else parts.push_back({gpa(i), gpa(i) + kBlockSize});
  }
  for (unsigned order = 0; order < kBlockOrder; ++order) {
    for (Index i = lists_[order]; i != kNil; i = meta_[i].next) seal.free += 1ull << order;
    seal.lists[order] = std::exchange(lists_[order], kNil);
  }
  sealed_.store(number, std::memory_order_release);
  return parts;
}

void FramePool::sealed_for(std::weak_ptr<const Layer> users) {
  LockGuard guard(lock_);
  seals_.back().users = std::move(users);
}

std::shared_ptr<const Layer> FramePool::last_layer() const {
  LockGuard guard(lock_);
  return seals_.empty() ? nullptr : seals_.back().users.lock();
}

bool FramePool::thawable() const {
  LockGuard guard(lock_);
  return !seals_.empty() && seals_.back().users.expired();
}

bool FramePool::thaw() {
  LockGuard guard(lock_);
  bool any = false;
  while (!seals_.empty() && seals_.back().users.expired()) {
    Seal seal = std::move(seals_.back());
    seals_.pop_back();
    sealed_.store(seals_.empty() ? 0 : seals_.back().number, std::memory_order_release);
    // The seal's lists go in front of the pool's.
    for (unsigned order = 0; order < kBlockOrder; ++order) {
      Index last = seal.lists[order];
      if (last == kNil) continue;
      while (meta_[last].next != kNil) last = meta_[last].next;
      meta_[last].next = lists_[order];
      if (lists_[order] != kNil) meta_[lists_[order]].prev = last;
      lists_[order] = seal.lists[order];
    }
    for (Index i = seal.dropped; i != kNil;) {
      const Frame run = meta_[i];
      free_locked(i, run.prev);
      i = run.next;
    }
    any = true;
  }
  return any;
}

}  // namespace ramet::mm
