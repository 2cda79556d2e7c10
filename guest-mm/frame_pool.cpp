// The buddy lists of the frame pool.
#include "guest-mm/frame_pool.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14
#endif

namespace ramet::mm {

// Threads that fault at once meet here, each for some tens of nanoseconds: trying again is cheaper than sleeping
// (16 % more faults from two threads), unless the holder does not run.
static void lock_soon(Mutex& lock) RAMET_ACQUIRE(lock) {
  constexpr int kTries = 100;
  for (int i = 0; i < kTries; ++i) {
    if (lock.try_lock()) return;
  }
  lock.lock();
}

FramePool::FramePool(Bank& bank, Announce announce, std::uint64_t limit)
    : bank_(bank), announce_(std::move(announce)), frames_(static_cast<Index>(bank.size() >> kPageShift)),
      limit_(limit == 0 ? frames_ : std::min<std::uint64_t>(limit, frames_)),
      account_(std::make_shared<Account>(limit_ << kPageShift)), top_(frames_),
      known_bottom_(static_cast<Index>(std::min(bank.size(), Memory::kFirstPiece) >> kPageShift)), known_top_(frames_),
      huge_from_(frames_), sealed_by_(new std::atomic<std::uint32_t>[(frames_ >> kBlockOrder) + 1]()) {
  lists_.fill(kNil);
}

Result<std::unique_ptr<FramePool>> FramePool::create(Bank& bank, Announce announce, std::uint64_t limit) {
  std::unique_ptr<FramePool> pool(new FramePool(bank, std::move(announce), limit));
  void* meta = ::mmap(nullptr, sizeof(Frame) * std::uint64_t{pool->frames_}, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (meta == MAP_FAILED) return fail(Error::NoMemory);
  pool->meta_ = static_cast<Frame*>(meta);
  return pool;
}

FramePool::~FramePool() {
  // The bank may live on in layers: blocks that no layer holds go back to the host now.
  for (Index i = 0; i < frames_ && last_seal_ > 0; i += Index{1} << kBlockOrder) {
    if (!sealed(i) && (i < bottom_ || i >= top_)) (void)bank_.give_back(gpa(i), kBlockSize);
  }
  if (meta_) ::munmap(meta_, sizeof(Frame) * std::uint64_t{frames_});
}

void FramePool::push_locked(Index i, unsigned order, bool zero) {
  Frame& f = meta_[i];
  f = {.next = lists_[order], .prev = kNil, .free = 1, .order = static_cast<std::uint8_t>(order), .zero = zero};
  if (f.next != kNil) meta_[f.next].prev = i;
  lists_[order] = i;
  if (order == kBlockOrder && !zero) ++backed_blocks_;
}

void FramePool::unlink_locked(Index i) {
  Frame& f = meta_[i];
  if (f.prev != kNil) meta_[f.prev].next = f.next;
  else lists_[f.order] = f.next;
  if (f.next != kNil) meta_[f.next].prev = f.prev;
  f.free = 0;
  if (f.order == kBlockOrder && !f.zero) --backed_blocks_;
}

// Each piece is as large as all before it from the same end, so that they stay few.
bool FramePool::know_bottom_locked(Index end) {
  if (end <= known_bottom_ || known_bottom_ == known_top_) return true;
  const Index wanted = std::max(2 * known_bottom_, static_cast<Index>(align_up(end, Index{1} << kBlockOrder)));
  const Index to = std::min(wanted, known_top_);
  if (announce_ && !announce_(gpa(known_bottom_), gpa(to))) return false;
  known_bottom_ = to;
  return true;
}

bool FramePool::know_top_locked(Index start) {
  if (start >= known_top_ || known_bottom_ == known_top_) return true;
  constexpr Index kFirst = Memory::kFirstPiece >> kPageShift;
  const Index step = std::min(std::max(frames_ - known_top_, kFirst), known_top_ - known_bottom_);
  if (announce_ && !announce_(gpa(known_top_ - step), gpa(known_top_))) return false;
  known_top_ -= step;
  return true;
}

bool FramePool::take_fresh_locked(unsigned order, Index& out) {
  const Index size = Index{1} << order;
  if (order == kBlockOrder) {
    if (top_ - bottom_ < size || !is_aligned(top_, size) || !know_top_locked(top_ - size)) return false;
    top_ -= size;
    if (top_ < huge_from_) {
      huge_from_ -= std::min(kHugeStep, huge_from_);
      // Advice: a host without huge pages refuses it, and works as well.
      (void)::madvise(host(huge_from_), std::uint64_t{std::min(kHugeStep, frames_ - huge_from_)} << kPageShift,
                      MADV_HUGEPAGE);
    }
    out = top_;
    return true;
  }
  const Index start = static_cast<Index>(align_up(bottom_, size));
  if (start > top_ || top_ - start < size || !know_bottom_locked(start + size)) return false;
  // Frames skipped for alignment are free, in the largest pieces that are aligned.
  while (bottom_ < start) {
    const unsigned o = std::countr_zero(bottom_);
    push_locked(bottom_, o, true);
    bottom_ += Index{1} << o;
  }
  bottom_ = start + size;
  out = start;
  return true;
}

bool FramePool::take_locked(unsigned order, Index& out, bool& zero) {
  unsigned found = order;
  while (found < kBlockOrder && lists_[found] == kNil) ++found;
  // A whole block is cut up before fresh frames are taken if the host backs it, as fresh ones cost a fault each;
  // otherwise after them.
  const bool backed = found == kBlockOrder && lists_[found] != kNil && !meta_[lists_[found]].zero;
  if (found == kBlockOrder && order < kBlockOrder && !backed && take_fresh_locked(order, out)) {
    zero = true;
    return true;
  }
  if (lists_[found] == kNil) {
    zero = true;
    return order == kBlockOrder && take_fresh_locked(order, out);
  }
  const Index i = lists_[found];
  zero = meta_[i].zero;
  unlink_locked(i);
  cut_locked(i, found, order, zero);
  out = i;
  return true;
}

// Keeps the first 2^to frames of a run that was taken, and puts the rest back on the lists.
void FramePool::cut_locked(Index i, unsigned from, unsigned to, bool zero) {
  while (from > to) {
    --from;
    push_locked(i + (Index{1} << from), from, zero);
  }
}

bool FramePool::take_on_locked(unsigned node, unsigned order, Index& out, bool& zero) {
  const auto wanted = [&](Index i) { return (i >> kBlockOrder) % kNodes == node; };
  for (unsigned found = order; found <= kBlockOrder; ++found) {
    Index i = lists_[found];
    while (i != kNil && !wanted(i)) i = meta_[i].next;
    if (i == kNil) continue;
    zero = meta_[i].zero;
    unlink_locked(i);
    cut_locked(i, found, order, zero);
    out = i;
    return true;
  }
  zero = true;
  for (unsigned n = 0; n < kNodes; ++n) {
    Index block = 0;
    if (!take_fresh_locked(kBlockOrder, block)) return false;
    if (wanted(block)) {
      cut_locked(block, kBlockOrder, order, true);
      out = block;
      return true;
    }
    push_locked(block, kBlockOrder, true);
  }
  return false;
}

void FramePool::fill(Run run, Fill fill, bool zero) const {
  if (fill == Fill::Overwrite) return;
  std::byte* at = bank_.at(run.gpa);
  if (!zero) {
    std::memset(at, 0, run.bytes());  // unguarded: the private bank is never unmapped
    return;
  }
  // A run of small pages: the host gives its memory in one call instead of a fault for each page. Blocks are left to
  // their first touch. A hint; if it fails, the touch does the same. Not for a bank in files: there the guest touches
  // the file through a mapping of its own, which this would not populate.
  if (run.order > 0 && run.order < kBlockOrder && !bank_.has_files())
    (void)::madvise(at, run.bytes(), MADV_POPULATE_WRITE);
}

Result<FramePool::Run> FramePool::allocate(unsigned order, Fill how, std::optional<unsigned> node) {
  Run run{.gpa = 0, .order = order};
  bool zero = false;
  {
    lock_soon(lock_);
    LockGuard guard(lock_, kAdopt);
    Index i = 0;
    if (!account_->take(run.bytes())) return fail(Error::NoMemory);
    if (!(node ? take_on_locked(*node, order, i, zero) : take_locked(order, i, zero))) {
      account_->give(run.bytes());
      return fail(Error::NoMemory);
    }
    run.gpa = gpa(i);
    count_used_locked(run.pages());
  }
  fill(run, how, zero);
  return run;
}

void FramePool::count_used_locked(std::uint64_t pages) {
  const std::uint64_t now = used() + pages;
  used_.store(now, std::memory_order_relaxed);
  if (now > peak()) peak_.store(now, std::memory_order_relaxed);
}

bool FramePool::run_of_locked(Index i, Index& first, unsigned& order) const {
  for (order = 0; order <= kBlockOrder; ++order) {
    first = static_cast<Index>(align_down(i, 1ull << order));
    if (meta_[first].free && meta_[first].order == order) return true;
  }
  return false;
}

Result<FramePool::Run> FramePool::allocate_at(Gpa at, std::uint64_t pages, Fill how) {
  if (!bank_.contains(at)) return fail(Error::NoMemory);
  const Index i = static_cast<Index>((at - bank_.base()) >> kPageShift);
  const unsigned aligned = i == 0 ? kBlockOrder : static_cast<unsigned>(std::countr_zero(i));
  Run run{.gpa = at, .order = std::min(aligned, static_cast<unsigned>(std::bit_width(pages)) - 1)};
  bool zero = true;
  {
    LockGuard guard(lock_);
    Index first = 0;
    unsigned order = 0;
    const std::uint64_t asked = run.bytes();
    if (sealed(i) || !account_->take(asked)) return fail(Error::NoMemory);
    if (run_of_locked(i, first, order)) {
      zero = meta_[first].zero;
      unlink_locked(first);
      run.order = std::min(run.order, order);
      while (order > run.order) {  // the halves that are not wanted go back
        --order;
        const Index middle = first + (Index{1} << order);
        push_locked(i < middle ? middle : first, order, zero);
        if (i >= middle) first = middle;
      }
    } else if (i == bottom_ && run.order < kBlockOrder && top_ - bottom_ >= run.pages() &&
               know_bottom_locked(i + static_cast<Index>(run.pages()))) {
      bottom_ += static_cast<Index>(run.pages());
    } else {
      account_->give(asked);
      return fail(Error::NoMemory);
    }
    account_->give(asked - run.bytes());
    count_used_locked(run.pages());
  }
  fill(run, how, zero);
  return run;
}

Result<FramePool::Run> FramePool::allocate_up_to(std::uint64_t pages, Fill how) {
  unsigned order = std::min(static_cast<unsigned>(std::bit_width(pages)) - 1, kBlockOrder);
  Result<Run> run = allocate(order, how);
  while (!run && order > 0) run = allocate(--order, how);
  return run;
}

void FramePool::free_run_locked(Index i, unsigned order, bool zero) {
  while (order < kBlockOrder) {
    const Index buddy = i ^ (Index{1} << order);
    if (!meta_[buddy].free || meta_[buddy].order != order) break;  // never sealed: a block is sealed as a whole
    zero = zero && meta_[buddy].zero;
    unlink_locked(buddy);
    i = std::min(i, buddy);
    ++order;
  }
  if (order == kBlockOrder && !zero && backed_blocks_ >= kKeptBlocks) {
    zero = bank_.give_back(gpa(i), kBlockSize);
  }
  push_locked(i, order, zero);
}

void FramePool::free(Gpa start, std::uint64_t pages) {
  if (!bank_.contains(start) || pages > (bank_.end() - start) >> kPageShift) return;
  lock_soon(lock_);
  LockGuard guard(lock_, kAdopt);
  Index i = static_cast<Index>((start - bank_.base()) >> kPageShift);
  used_.store(used() - pages, std::memory_order_relaxed);
  account_->give(pages << kPageShift);
  while (pages > 0) {
    // Block by block, as a block is sealed, or in the pin bank, as a whole.
    const Index end = static_cast<Index>(align_down(i, 1u << kBlockOrder)) + (Index{1} << kBlockOrder);
    const Index n = static_cast<Index>(std::min<std::uint64_t>(pages, end - i));
    if (sealed(i)) drop_locked(i, n);
    else if (apart(gpa(i))) free_apart_locked(i, n);
    else free_locked(i, n);
    i += n;
    pages -= n;
  }
}

void FramePool::quarantine(Gpa start, std::uint64_t pages) {
  if (!bank_.contains(start) || pages > (bank_.end() - start) >> kPageShift) return;
  LockGuard guard(lock_);
  Index i = static_cast<Index>((start - bank_.base()) >> kPageShift);
  for (; pages > 0; ++i, --pages) {
    const auto at = std::ranges::lower_bound(bad_, i);
    if (at == bad_.end() || *at != i) bad_.insert(at, i);
  }
}

std::uint64_t FramePool::quarantined() const {
  LockGuard guard(lock_);
  return bad_back_;
}

void FramePool::free_locked(Index i, std::uint64_t pages) {
  for (auto bad = std::ranges::lower_bound(bad_, i); bad != bad_.end() && *bad < i + pages; ++bad) {
    free_good_locked(i, *bad - i);
    pages -= *bad - i + 1;
    i = *bad + 1;
    ++bad_back_;
  }
  free_good_locked(i, pages);
}

void FramePool::free_good_locked(Index i, std::uint64_t pages) {
  while (pages > 0) {
    const unsigned aligned = i == 0 ? kBlockOrder : static_cast<unsigned>(std::countr_zero(i));
    const unsigned order = std::min({aligned, kBlockOrder, static_cast<unsigned>(std::bit_width(pages)) - 1});
    free_run_locked(i, order, false);
    i += Index{1} << order;
    pages -= 1ull << order;
  }
}

bool FramePool::consistent() const {
  LockGuard guard(lock_);
  if (account_->total() != (used() << kPageShift) + Account::beyond_free(account_->held())) return false;
  std::uint64_t listed = 0, backed = 0;
  for (unsigned order = 0; order <= kBlockOrder; ++order) {
    Index before = kNil;
    for (Index i = lists_[order]; i != kNil; i = meta_[i].next) {
      const Frame& f = meta_[i];
      const bool fresh = i >= bottom_ && i < top_;
      if (!f.free || f.order != order || f.prev != before || !is_aligned(i, 1ull << order) || fresh) return false;
      listed += 1ull << order;
      if (listed > frames_) return false;
      if (order == kBlockOrder && !f.zero) ++backed;
      before = i;
    }
  }
  std::uint64_t held = bad_back_;
  for (const Seal& seal : seals_) held += seal.free + seal.dropped_frames;
  for (const Apart& block : apart_) held += block.used.size() - block.used.count();
  return backed == backed_blocks_ && listed + (top_ - bottom_) + used() + held == frames_;
}

bool FramePool::is_free(Gpa at) const {
  if (!bank_.contains(at)) return false;
  LockGuard guard(lock_);
  const Index i = static_cast<Index>((at - bank_.base()) >> kPageShift);
  if (i >= bottom_ && i < top_) return true;
  for (const Apart& block : apart_)
    if (i - block.first < block.used.size()) return !block.used[i - block.first];
  Index first = 0;
  unsigned order = 0;
  return run_of_locked(i, first, order);
}

}  // namespace ramet::mm
