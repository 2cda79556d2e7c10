// Pin book: counts exactly how often each frame of a bank is pinned. Counting touches no cache line that all threads
// share; any() takes a few loads, and visit() finds pinned frames by blocks.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "guest-mm/bank.hpp"
#include "guest-mm/space_lock.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "guest-mm/thread_shard.hpp"
#include "guest-mm/types.hpp"

namespace ramet::mm {

class PinHold;

// Frames of another bank are never counted; for them every question is answered with no.
// A frame's count is the number of PinHolds that hold it. A frame that is freed while it is pinned is an orphan: it
// goes to `freed` exactly once, with its last pin.
class PinBook {
 public:
  // The bank outlives the book. Errors: NoMemory (book-keeping).
  static Result<std::unique_ptr<PinBook>> create(const Bank&);
  ~PinBook();
  PinBook(const PinBook&) = delete;
  PinBook& operator=(const PinBook&) = delete;

  // Pins each of the consecutive frames, which are mapped from `at` on, once more until the hold ends.
  // seq_cst: a freeze makes its sequence odd, and the caller of free() has cleared the entry, before either looks at
  // the counts. The caller of hold() looks at the sequence and the entry again afterwards. So either the freeze or
  // free() sees the pin, or the caller sees that they have begun, and gives the pin up.
  PinHold hold(Gpa first, Gva at, std::uint32_t pages);
  bool pinned(Gpa frame) const {
    const auto i = any() ? index(frame) : std::nullopt;
    return i && counts_[*i].load(std::memory_order_seq_cst) > 0;
  }
  // Whether any frame of the same 2 MiB block is pinned.
  bool any_in_block(Gpa) const;
  // Where the frame was mapped when it was pinned last; nullopt if it never was pinned.
  std::optional<Gva> last_place(Gpa frame) const {
    const auto i = index(frame);
    const Gva at = i ? where_[*i].load(std::memory_order_relaxed) : 0;
    return at ? std::optional(at) : std::nullopt;
  }
  // Whether the frame was ever pinned: then its entry may stay writable, as no child has ever seen the frame.
  bool ever(Gpa frame) const { return last_place(frame).has_value(); }
  bool any() const { return total() > 0; }
  std::int64_t total() const;  // pins, not frames
  // Every frame that is pinned, and where it was mapped when it was pinned last.
  void visit(const std::function<void(Gpa, Gva)>&) const;

  // Frames of the run that are not pinned go to `freed` at once, the others with their last pin.
  void free(Gpa, std::uint64_t pages) RAMET_EXCLUDES(orphans_lock_);
  std::function<void(Gpa, std::uint64_t pages)> freed;
  // How many frames only pins hold.
  std::uint64_t orphans() const { return orphan_count_.load(std::memory_order_seq_cst); }

 private:
  friend class PinHold;
  static constexpr unsigned kShards = 16;
  struct alignas(128) Shard {
    std::atomic<std::int64_t> total{0};
  };
  explicit PinBook(const Bank& bank)
      : bank_(bank), frames_(bank.size() >> kPageShift), blocks_((frames_ + 511) / 512) {}
  void add(Gpa frame, Gva at);
  void remove(Gpa frame) RAMET_EXCLUDES(orphans_lock_);
  // The frame's place in the arrays; nullopt for a frame of another bank.
  std::optional<std::uint64_t> index(Gpa frame) const {
    if (!bank_.contains(frame)) return std::nullopt;
    return (frame - bank_.base()) >> kPageShift;
  }
  // Pins in a block, counted by shard; only the sum over all shards means anything.
  std::atomic<std::int32_t>& in_block(unsigned shard, std::uint64_t block) const {
    return in_block_[shard * blocks_ + block];
  }

  const Bank& bank_;
  const std::uint64_t frames_, blocks_;
  // Arrays, zero-filled memory of their own that is touched as used.
  std::atomic<std::uint32_t>* counts_ = nullptr;  // by frame
  std::atomic<Gva>* where_ = nullptr;  // by frame, see last_place()
  std::atomic<std::int32_t>* in_block_ = nullptr;
  std::array<Shard, kShards> shards_;
  Mutex orphans_lock_ RAMET_ACQUIRED_AFTER(address_space_lock);  // innermost
  bool* orphans_ RAMET_PT_GUARDED_BY(orphans_lock_) = nullptr;  // by frame: whether only pins hold it
  std::atomic<std::uint64_t> orphan_count_{0};  // seq_cst: written before free() looks at the count again, read by
                                                // remove() after it took its pin off
};

// One pin on each of some consecutive frames, released by the destructor.
class PinHold {
 public:
  PinHold() = default;
  PinHold(PinHold&& o) noexcept : book_(std::exchange(o.book_, nullptr)), first_(o.first_), pages_(o.pages_) {}
  PinHold& operator=(PinHold&& o) noexcept {
    std::swap(book_, o.book_), std::swap(first_, o.first_), std::swap(pages_, o.pages_);
    return *this;
  }
  // Takes over the pins of `next` if its frames follow these ones. False: they do not, and nothing has changed.
  bool extend(PinHold& next) {
    if (next.book_ != book_ || (book_ && next.first_ != first_ + (std::uint64_t{pages_} << kPageShift))) return false;
    pages_ += std::exchange(next.pages_, 0);
    next.book_ = nullptr;
    return true;
  }
  ~PinHold() {
    for (std::uint32_t i = 0; book_ && i < pages_; ++i) book_->remove(first_ + (std::uint64_t{i} << kPageShift));
  }
  Gpa first() const { return first_; }

 private:
  friend class PinBook;
  PinHold(PinBook& book, Gpa first, std::uint32_t pages) : book_(&book), first_(first), pages_(pages) {}
  PinBook* book_ = nullptr;
  Gpa first_ = 0;
  std::uint32_t pages_ = 0;
};

}  // namespace ramet::mm
