// Counting pins.
#include "guest-mm/pin_book.hpp"

#include <sys/mman.h>

namespace ramet::mm {

template <class T>
static T* book_memory(std::uint64_t n) {
  void* at = ::mmap(nullptr, n * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return at == MAP_FAILED ? nullptr : static_cast<T*>(at);
}

Result<std::unique_ptr<PinBook>> PinBook::create(const Bank& bank) {
  std::unique_ptr<PinBook> book(new PinBook(bank));
  book->counts_ = book_memory<std::atomic<std::uint32_t>>(book->frames_);
  book->where_ = book_memory<std::atomic<Gva>>(book->frames_);
  book->in_block_ = book_memory<std::atomic<std::int32_t>>(kShards * book->blocks_);
  book->orphans_ = book_memory<bool>(book->frames_);
  if (!book->counts_ || !book->where_ || !book->in_block_ || !book->orphans_) return fail(Error::NoMemory);
  return book;
}

PinBook::~PinBook() {
  if (counts_) ::munmap(counts_, frames_ * sizeof *counts_);
  if (where_) ::munmap(where_, frames_ * sizeof *where_);
  if (in_block_) ::munmap(in_block_, kShards * blocks_ * sizeof *in_block_);
  if (orphans_) ::munmap(orphans_, frames_ * sizeof *orphans_);
}

PinHold PinBook::hold(Gpa first, Gva at, std::uint32_t pages) {
  for (std::uint64_t i = 0; i < pages; ++i) add(first + (i << kPageShift), at + (i << kPageShift));
  return {*this, first, pages};
}

void PinBook::add(Gpa frame, Gva at) {
  const auto i = index(frame);
  if (!i) return;
  const unsigned s = thread_shard() % kShards;
  where_[*i].store(at, std::memory_order_relaxed);
  in_block(s, *i / 512).fetch_add(1, std::memory_order_seq_cst);
  shards_[s].total.fetch_add(1, std::memory_order_seq_cst);
  counts_[*i].fetch_add(1, std::memory_order_seq_cst);
}

void PinBook::remove(Gpa frame) {
  const auto i = index(frame);
  if (!i) return;
  const unsigned s = thread_shard() % kShards;
  const bool last = counts_[*i].fetch_sub(1, std::memory_order_seq_cst) == 1;
  shards_[s].total.fetch_sub(1, std::memory_order_seq_cst);
  in_block(s, *i / 512).fetch_sub(1, std::memory_order_seq_cst);
  if (!last || orphan_count_.load(std::memory_order_seq_cst) == 0) return;
  {
    LockGuard guard(orphans_lock_);
    if (counts_[*i].load(std::memory_order_seq_cst) > 0 || !std::exchange(orphans_[*i], false)) return;
    orphan_count_.fetch_sub(1, std::memory_order_seq_cst);
  }
  freed(frame, 1);
}

std::int64_t PinBook::total() const {
  std::int64_t sum = 0;
  for (const Shard& s : shards_) sum += s.total.load(std::memory_order_seq_cst);
  return sum;
}

bool PinBook::any_in_block(Gpa frame) const {
  const auto i = index(frame);
  std::int64_t sum = 0;
  for (unsigned s = 0; i && s < kShards; ++s) sum += in_block(s, *i / 512).load(std::memory_order_seq_cst);
  return sum > 0;
}

void PinBook::visit(const std::function<void(Gpa, Gva)>& see) const {
  if (!any()) return;
  for (std::uint64_t block = 0; block < blocks_; ++block) {
    if (!any_in_block(bank_.base() + block * kBlockSize)) continue;
    for (std::uint64_t i = block * 512; i < std::min(frames_, (block + 1) * 512); ++i) {
      if (counts_[i].load(std::memory_order_seq_cst) == 0) continue;
      see(bank_.base() + (i << kPageShift), where_[i].load(std::memory_order_relaxed));
    }
  }
}

void PinBook::free(Gpa start, std::uint64_t pages) {
  const auto first = index(start);
  if (!first || pages > frames_ - *first) return;
  if (!any()) return freed(start, pages);
  Gpa from = start;
  const Gpa end = start + (pages << kPageShift);
  for (Gpa at = start; at < end; at += kPageSize) {
    const std::uint64_t i = *first + ((at - start) >> kPageShift);
    const std::atomic<std::uint32_t>& count = counts_[i];
    if (count.load(std::memory_order_seq_cst) == 0) continue;
    {
      LockGuard guard(orphans_lock_);
      orphans_[i] = true;
      orphan_count_.fetch_add(1, std::memory_order_seq_cst);
      if (count.load(std::memory_order_seq_cst) == 0) {  // unpinned meanwhile; remove() may not have seen the orphan
        orphans_[i] = false;
        orphan_count_.fetch_sub(1, std::memory_order_seq_cst);
        continue;
      }
    }
    if (from < at) freed(from, (at - from) >> kPageShift);
    from = at + kPageSize;
  }
  if (from < end) freed(from, (end - from) >> kPageShift);
}

}  // namespace ramet::mm
