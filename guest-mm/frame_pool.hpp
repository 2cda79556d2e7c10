// Frame pool: hands out the frames of the private bank, by buddy lists, and accounts them exactly.
//
//   bank:  [ used and freed small runs | fresh, never touched | used and freed blocks ]
//           ^ 0                         ^ bottom_              ^ top_                   ^ frames
//
// Runs smaller than a block come from the bottom, blocks from the top: host memory for the top is asked
// for in huge pages, the bottom is not, so that a small guest costs the host only the pages it uses.
// When the two meet, freed blocks are split. Book-keeping lies outside the bank and is touched as used.
//
// A freeze seals all blocks in which a frame is in use: they now belong to a layer, and no frame in them is handed out
// while that layer is in use. When its last user has gone, the blocks are as before. Seals are a stack. Blocks of the
// pin bank are never sealed: what devices write there for long is in no layer.
#pragma once

#include <array>
#include <atomic>
#include <bitset>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "guest-mm/account.hpp"
#include "guest-mm/bank.hpp"
#include "guest-mm/space_lock.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "guest-mm/types.hpp"

namespace ramet::mm {

// What the frames must hold when handed out.
enum class Fill : std::uint8_t {
  Zero,       // zeroes
  Overwrite,  // anything: the caller writes every byte before the guest can see one
};

class FramePool {
 public:
  static constexpr unsigned kBlockOrder = 9;  // 2^9 frames are a 2 MiB block

  // A run of 2^order frames, aligned to its size.
  struct Run {
    Gpa gpa = 0;
    unsigned order = 0;
    std::uint64_t pages() const { return 1ull << order; }
    std::uint64_t bytes() const { return pages() << kPageShift; }
  };

  // Frames beyond Memory::kFirstPiece are announced, a piece at a time, before the first of them is handed out; called
  // under the pool's lock.
  using Announce = std::function<Result<>(Gpa start, Gpa end)>;
  // The bank outlives the pool. `limit`: most frames handed out at a time, 0: all; a larger bank has room for frames
  // that seals hold. Errors: NoMemory (book-keeping).
  static Result<std::unique_ptr<FramePool>> create(Bank&, Announce = {}, std::uint64_t limit = 0);
  ~FramePool();
  FramePool(const FramePool&) = delete;
  FramePool& operator=(const FramePool&) = delete;

  // Two nodes, as a model of memory that is near to one processor or another. Blocks belong to them by turns.
  static constexpr unsigned kNodes = 2;
  // A run of exactly 2^order frames, of that node if one is named. Errors: NoMemory, also when enough frames are free
  // but not in a run.
  Result<Run> allocate(unsigned order, Fill, std::optional<unsigned> node = {}) RAMET_EXCLUDES(lock_);
  // The largest run of at most `pages` frames there is; a free frame is always found. Errors: NoMemory.
  Result<Run> allocate_up_to(std::uint64_t pages, Fill) RAMET_EXCLUDES(lock_);
  // A run of at most `pages` frames that begins at that address. Errors: NoMemory, if that frame is not free.
  Result<Run> allocate_at(Gpa, std::uint64_t pages, Fill) RAMET_EXCLUDES(lock_);
  // nullopt for a frame of another bank.
  std::optional<unsigned> node_of(Gpa gpa) const {
    if (!bank_.contains(gpa)) return std::nullopt;
    return static_cast<unsigned>((gpa - bank_.base()) / kBlockSize % kNodes);
  }
  // One frame, holding anything, of the pin bank: blocks that are never sealed, so that they are in no other VM's
  // memory. The pin bank grows by a block at a time. Errors: NoMemory.
  Result<Gpa> allocate_apart() RAMET_EXCLUDES(lock_);
  // Whether the frame is in the pin bank.
  bool apart(Gpa gpa) const { return bank_.contains(gpa) && sealed_by(gpa).load(std::memory_order_acquire) == kApart; }
  // Visits the frames of the pin bank that are handed out, under the pool's lock.
  void visit_apart(const std::function<void(Gpa)>&) const RAMET_EXCLUDES(lock_);
  // Gives back any frames handed out, in whatever pieces. The guest can no longer reach them. Frames of another bank
  // are refused: nothing happens.
  void free(Gpa gpa, std::uint64_t pages) RAMET_EXCLUDES(lock_);
  // For frames handed out whose memory fails: once they are given back, they are never handed out again. Frames of
  // another bank are refused: nothing happens.
  void quarantine(Gpa gpa, std::uint64_t pages) RAMET_EXCLUDES(lock_);
  std::uint64_t quarantined() const RAMET_EXCLUDES(lock_);  // of those, the frames given back so far

  // Seals every block with a frame in use that is not sealed yet; returns them, neighbours joined. For a bank in files,
  // the files with those blocks are closed as well: frames handed out afterwards are in another file. Errors: NoMemory;
  // then nothing is sealed.
  Result<std::vector<Range>> seal() RAMET_EXCLUDES(lock_);
  // Names the layer of the last seal, which holds as long as the layer lives. Once per seal().
  void sealed_for(std::weak_ptr<const Layer>) RAMET_EXCLUDES(lock_);
  // The layer of the last seal that is not undone; null if there is none.
  std::shared_ptr<const Layer> last_layer() const RAMET_EXCLUDES(lock_);
  // Undoes the last seals whose layers have gone. True if there were any. thawable(): whether thaw() would undo any.
  bool thaw() RAMET_EXCLUDES(lock_);
  bool thawable() const RAMET_EXCLUDES(lock_);
  // Whether the frame is this pool's and not sealed: no other VM can map it. Acquire: pairs with seal(), see there.
  bool exclusive(Gpa gpa) const {
    if (!bank_.contains(gpa)) return false;
    return !sealed(static_cast<Index>((gpa - bank_.base()) >> kPageShift));
  }

  std::uint64_t total() const { return limit_; }
  // Charged for frames and for what the VMM holds for the guest; its limit is total(), in bytes.
  const std::shared_ptr<Account>& account() const { return account_; }
  std::uint64_t used() const { return used_.load(std::memory_order_relaxed); }
  std::uint64_t peak() const { return peak_.load(std::memory_order_relaxed); }  // most frames in use so far

  // Recounts the lists: true if every frame is free once, fresh, or counted as used. For tests.
  bool consistent() const RAMET_EXCLUDES(lock_);
  // Whether the frame is in a list or never was handed out. For AddressSpace::audit().
  bool is_free(Gpa gpa) const RAMET_EXCLUDES(lock_);

 private:
  using Index = std::uint32_t;
  static constexpr Index kNil = ~Index{0};
  // Freed blocks beyond these many go back to the host: enough that a guest which frees and takes does not
  // make the host fault again (10 us per 4 KiB against 0.1 us for zeroing what is there).
  static constexpr std::uint64_t kKeptBlocks = 32;
  // Host memory is advised to be huge in steps of this many frames, from the top down.
  static constexpr Index kHugeStep = 16u << kBlockOrder;

  struct Frame {
    Index next, prev;  // in the list of its order; valid for the first frame of a free run
    std::uint8_t free;  // 1: first frame of a free run
    std::uint8_t order;
    std::uint8_t zero;  // the whole run holds zeroes: never used, or given back to the host
  };

  // A block of the pin bank.
  struct Apart {
    Index first;
    std::bitset<1u << kBlockOrder> used;
  };
  static constexpr std::uint32_t kApart = ~std::uint32_t{0};  // no seal has that number
  std::atomic<std::uint32_t>& sealed_by(Gpa gpa) const {
    return sealed_by_[(gpa - bank_.base()) >> (kPageShift + kBlockOrder)];
  }
  void free_apart_locked(Index, Index pages) RAMET_REQUIRES(lock_);
  void free_good_locked(Index, std::uint64_t pages) RAMET_REQUIRES(lock_);

  struct Seal {
    std::weak_ptr<const Layer> users;
    std::uint32_t number;  // rising
    std::array<Index, kBlockOrder> lists;  // runs that were free in its blocks
    std::uint64_t free;  // frames in them
    Index dropped;  // runs freed since, a list by Frame::next; Frame::prev is a run's length
    std::uint64_t dropped_frames = 0;
  };
  FramePool(Bank&, Announce, std::uint64_t limit);
  // A block is sealed from when a seal's number is stored in sealed_by_ until that seal has been undone.
  bool sealed(Index i) const {
    const std::uint32_t by = sealed_by_[i >> kBlockOrder].load(std::memory_order_acquire);
    return by != 0 && by <= sealed_.load(std::memory_order_acquire);
  }
  void drop_locked(Index, Index pages) RAMET_REQUIRES(lock_);
  // Maps every block without a frame in use from a new file. Errors: NoMemory.
  Result<> renew_locked() RAMET_REQUIRES(lock_);
  void free_locked(Index, std::uint64_t pages) RAMET_REQUIRES(lock_);
  std::byte* host(Index i) const { return bank_.host() + (std::uint64_t{i} << kPageShift); }
  Gpa gpa(Index i) const { return bank_.base() + (std::uint64_t{i} << kPageShift); }
  // Takes a run off a list or from the fresh frames; false if there is none. `zero`: it holds zeroes.
  bool take_locked(unsigned order, Index& out, bool& zero) RAMET_REQUIRES(lock_);
  bool take_on_locked(unsigned node, unsigned order, Index& out, bool& zero) RAMET_REQUIRES(lock_);
  void cut_locked(Index, unsigned from, unsigned to, bool zero) RAMET_REQUIRES(lock_);
  bool take_fresh_locked(unsigned order, Index& out) RAMET_REQUIRES(lock_);
  bool know_bottom_locked(Index end) RAMET_REQUIRES(lock_);
  bool know_top_locked(Index start) RAMET_REQUIRES(lock_);
  // The free run that holds frame i; false if it is not in a list.
  bool run_of_locked(Index i, Index& first, unsigned& order) const RAMET_REQUIRES(lock_);
  void count_used_locked(std::uint64_t pages) RAMET_REQUIRES(lock_);
  void push_locked(Index, unsigned order, bool zero) RAMET_REQUIRES(lock_);
  void unlink_locked(Index) RAMET_REQUIRES(lock_);
  void free_run_locked(Index, unsigned order, bool zero) RAMET_REQUIRES(lock_);
  void fill(Run, Fill, bool zero) const;

  Bank& bank_;
  const Announce announce_;
  Index frames_ = 0;
  std::uint64_t limit_ = 0;
  const std::shared_ptr<Account> account_;
  Frame* meta_ RAMET_PT_GUARDED_BY(lock_) = nullptr;  // one per frame, zero-filled memory of its own
  // After table locks; before files_lock_ of the bank, and Memory's, which announce_ takes.
  mutable Mutex lock_ RAMET_ACQUIRED_AFTER(address_space_lock);
  std::array<Index, kBlockOrder + 1> lists_ RAMET_GUARDED_BY(lock_);
  std::uint64_t backed_blocks_ RAMET_GUARDED_BY(lock_) = 0;  // blocks in the last list that the host still backs
  // Fresh frames are [bottom_, top_).
  Index bottom_ RAMET_GUARDED_BY(lock_) = 0, top_ RAMET_GUARDED_BY(lock_) = 0;
  // Frames outside [known_bottom_, known_top_) are announced; whole blocks.
  Index known_bottom_ RAMET_GUARDED_BY(lock_), known_top_ RAMET_GUARDED_BY(lock_);
  Index huge_from_ RAMET_GUARDED_BY(lock_) = 0;  // frames from here on are advised huge
  std::vector<Apart> apart_ RAMET_GUARDED_BY(lock_);
  std::vector<Index> bad_ RAMET_GUARDED_BY(lock_);  // frames given to quarantine(), ascending
  std::uint64_t bad_back_ RAMET_GUARDED_BY(lock_) = 0;  // how many of them have been given back
  std::vector<Seal> seals_ RAMET_GUARDED_BY(lock_);
  std::uint32_t last_seal_ RAMET_GUARDED_BY(lock_) = 0;
  // Both written with the lock, release; read without it, acquire, by exclusive() and apart().
  std::atomic<std::uint32_t> sealed_{0};  // number of the last seal that is not undone
  std::unique_ptr<std::atomic<std::uint32_t>[]> sealed_by_;  // for each block: its seal's number, kApart, or 0
  std::atomic<std::uint64_t> used_{0}, peak_{0};  // written with the lock; read as a statistic without it
};

}  // namespace ramet::mm
