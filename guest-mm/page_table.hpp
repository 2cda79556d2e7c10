// Page table: the operations on ranges of virtual addresses that the rest of guest-mm is written in,
// the same for every entry format. walker.hpp implements them, once.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "arch/entry.hpp"
#include "guest-mm/counters.hpp"
#include "guest-mm/flush.hpp"
#include "guest-mm/region.hpp"
#include "guest-mm/table_pool.hpp"
#include "guest-mm/types.hpp"

namespace ramet::mm {

enum class Format : std::uint8_t;

// Functions that change entries are called with the address-space lock. Those that take a Guard are called by faults
// without it as well; an empty guard means that the lock is held. Functions that only look (find, visit, table_at,
// absent) need the lock or an rcu::Reader. The hardware walks the tables at any time.
class PageTable {
 public:
  using Level = arch::Level;
  using Attributes = arch::Attributes;

  enum class State : std::uint8_t {
    Absent,
    Present,
    Kept,  // the hardware sees nothing, the frame is remembered: a PROT_NONE page with contents
    Changing,  // being replaced by another entry: seen only without the lock of its table
  };

  // One slot that maps nothing or a frame. Absent: an empty slot, the largest around the address.
  struct Leaf {
    Gva start = 0;
    Level level = Level::Pte;
    State state = State::Absent;
    Gpa table = 0;  // that holds the slot
    Gpa address = 0;  // of the first byte of the leaf
    Attributes attributes = {};  // without write below a shared table
    bool table_shared = false;  // in or below a shared table: unshare() before the leaf changes
    bool hidden = false;  // of a shared table that the hardware does not see (EntryFormat::kSharedHidden)
    std::uint64_t span() const { return arch::span_of(level); }
    Gva end() const { return start + span(); }
  };

  // Frames mapped, present and kept, by where they come from.
  struct Census {
    std::uint64_t pages = 0, blocks = 0, giants = 0;  // private bank, by leaf level
    std::uint64_t inherited_pages = 0;  // layers, in 4 KiB pages
    std::uint64_t shared_pages = 0;  // other banks, in 4 KiB pages
    bool operator==(const Census&) const = default;
  };

  // Errors: NoMemory. All arguments outlive the table.
  static Result<std::unique_ptr<PageTable>> create(Format, const Memory&, TablePool&, const FramePool&, Tlb&,
                                                   Counters&);
  virtual ~PageTable() = default;

  virtual Gpa root() const = 0;
  virtual Leaf find(Gva) const = 0;
  // The longest extent around a present leaf, in the same table and at most `reach` bytes to either side of the
  // address, whose leaves have the same attributes. `leaf` is find() of the address.
  virtual Extent extent_of(const Leaf& leaf, Gva, std::uint64_t reach) const = 0;
  // Visits present and kept leaves that touch [start, end), in order. Skips what is absent by whole tables.
  virtual void visit(Gva start, Gva end, const std::function<void(const Leaf&)>&) const = 0;
  // Entries in use in a table.
  virtual unsigned entries(Gpa table) const = 0;
  // The table of that level around the address, if there is one.
  virtual std::optional<Gpa> table_at(Gva, Level) const = 0;
  // The gaps, ranges of empty slots, in [start, end), which lies inside the table: as many as fit into `out`. Returns
  // their number.
  virtual unsigned absent(Gpa table, Level, Gva start, Gva end, std::span<Range> out) const = 0;
  // The frame that would let the table become one leaf if the empty slot at `at` led there; judged by the entries
  // beside the slot. nullopt: there is none.
  virtual std::optional<Gpa> place_for(Gpa table, Level, Gva at) const = 0;
  // Visits the whole tree as it is, from the root: each table before its entries. For `ramet inspect` and freezes.
  struct Node {
    Leaf leaf;  // with `table`: start, level and address are those of the table
    bool table = false;
    unsigned entries = 0;  // of the table
  };
  virtual void dump(const std::function<void(const Node&)>&) const = 0;

  // --- sharing: a freeze leaves the whole tree but its root to a layer; the entries of the root then lead to shared
  // tables. A shared table is copied when something below it is to change: in the copy, leaves whose frames
  // other VMs may map are read-only. ---
  // A copy of the root's entries below `end`, for children to begin with. Errors: NoMemory.
  virtual Result<Gpa> copy_root(Gva end) RAMET_REQUIRES(address_space_lock) = 0;
  // Shares all tables below `end`; a strict flush goes to the batch.
  virtual void share_root(Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // Makes everything below `end` as in a layer's root; the census says what it maps. Precondition: nothing is mapped
  // there.
  virtual void adopt_root(Gpa, Gva end, const Census&) RAMET_REQUIRES(address_space_lock) = 0;
  // Back to what adopt_root() made; the cost follows what was changed since. Frames taken since, and copied tables
  // without a difference, go with the batch. Precondition: no fault maps anything there meanwhile.
  virtual void restore_root(Gpa, Gva end, const Census&, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // Makes the tables down to that level around the address writable, as far as there are any. Errors: NoMemory.
  [[nodiscard]] virtual Result<> unshare(Gva, Level, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // The same for the tables that reach across an end of [start, end); unmap() then finds every shared table wholly
  // inside or outside. Errors: NoMemory.
  [[nodiscard]] virtual Result<> unshare_ends(Gva start, Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // The same for all tables of [start, end). Errors: NoMemory.
  [[nodiscard]] virtual Result<> unshare_range(Gva start, Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // Puts the page on another frame, in a table that was just left to a layer and that no vCPU walks yet.
  virtual void substitute(Gpa table, Gva page, Gpa frame) RAMET_REQUIRES(address_space_lock) = 0;
  // Whether the table is the space's own, and not sealed for a layer: entries may be written there.
  virtual bool writable(Gpa table) const = 0;
  // Makes the tables above a leaf of that level, all writable; returns the lowest, which holds the leaf. Errors:
  // NoMemory; Invalid if a larger leaf is in the way.
  [[nodiscard]] virtual Result<Gpa> prepare(Gva, Level, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // Maps `count` leaves of that table to consecutive frames. Precondition: prepare() returned it, and the slots are
  // absent.
  virtual void map(Gpa table, Gva, Level, Gpa, unsigned count, Attributes, FlushBatch&)
      RAMET_REQUIRES(address_space_lock) = 0;

  // The region's sequence count as a fault without the address-space lock read it; it must be the same under the table
  // lock.
  struct Guard {
    const SequenceCount* sequence = nullptr;  // null: the caller holds the address-space lock
    std::uint32_t value = 0;
  };
  // How a change by a fault ended. Busy: another thread holds the table lock. Changed: the region or the entry has
  // changed. TableGone: the table is missing, out of the tree or shared. OverBudget: too many frames in flight, or none
  // left.
  enum class Published { Done, Busy, Changed, TableGone, OverBudget };
  struct Publication {
    Gpa table;
    Level level;
    std::span<const Extent> extents;  // all in the table
    Gva address;  // of the access
    Attributes attributes;  // of the entry for it
    Attributes around;  // of the other entries
    Guard guard;
  };
  struct Outcome {
    Published how = Published::Done;
    bool uniform = false;  // the table could be one leaf now
    bool there = false;  // the address of the access is mapped now, by this call or another thread
    std::uint32_t mapped = 0;  // leaves
  };
  // Writes entries into empty slots, under the table lock, which a fault without the address-space lock tries once.
  // Frames for slots that are not empty any more go to `left_over`; all frames, if the outcome is not Done.
  virtual Outcome publish(const Publication&, std::vector<Extent>& left_over) = 0;
  // Puts an empty table, `added`, into an empty slot of a PMD table, for a fault without the address-space lock.
  // TableGone also if no stocked table is left.
  virtual Published add_table(Gpa pmd_table, Gva, Guard, Gpa& added) = 0;
  // Copy-on-write: replaces leaves of one table, all as `seen`, by leaves on other frames with the same contents.
  // Flushes before the new entries can be used. Guard as in publish(). Nothing is replaced unless Done is returned.
  struct Replacement {
    Leaf seen;
    Gpa frame;
    Attributes attributes;
  };
  virtual Published replace_leaves(std::span<const Replacement>, Guard, EntryFlush&) = 0;

  // Adds permission to the leaf that was found as `seen`. Changed: the leaf has changed, or would lose something.
  virtual Published upgrade(const Leaf& seen, Attributes, Guard, EntryFlush&) = 0;

  // Replaces the table of that level around the address by a leaf of the level above. The table goes to the batch.
  enum class Merged : std::uint8_t { Done, NotUniform, Misaligned };
  virtual Merged merge(Gva, Level, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // Whether merge() would find the table uniform.
  virtual bool uniform(Gva, Level) const = 0;
  // Afterwards no leaf reaches across `boundary`. Splits as little as needed. Errors: NoMemory.
  [[nodiscard]] virtual Result<> split(Gva boundary, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // Splits the leaf around the address until it is of that level or smaller. Errors: NoMemory.
  [[nodiscard]] virtual Result<> split_to(Gva, Level, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // Unmaps whole leaves; private frames and empty tables go to the batch. Precondition: split, and unshare_ends().
  virtual void unmap(Gva start, Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // Gives every leaf the state and attributes that `rule` returns: Kept hides it from the hardware, Present shows it
  // again; Absent is not allowed. Precondition: split, and unshare_range().
  struct Change {
    State state;
    Attributes attributes = {};
  };
  virtual void update(Gva start, Gva end, const std::function<Change(const Leaf&)>& rule, FlushBatch&)
      RAMET_REQUIRES(address_space_lock) = 0;
  // The same for the one leaf that find() returned, without looking it up again. Precondition: the address-space lock
  // has been held since then, and the leaf's table is not shared.
  virtual void update_leaf(const Leaf&, const std::function<Change(const Leaf&)>& rule, FlushBatch&)
      RAMET_REQUIRES(address_space_lock) = 0;
  // Moves entries, not data. Whole tables where both addresses allow it. Precondition: split and unshare_ends() at the
  // source, nothing mapped at the destination. On an error (NoMemory) everything is where it was.
  [[nodiscard]] virtual Result<> move(Gva from, Gva to, std::uint64_t length, FlushBatch&)
      RAMET_REQUIRES(address_space_lock) = 0;

  virtual Census census() const = 0;
  // Recounts every table and compares with the counts of its entries and with the census. Empty if all agrees.
  virtual std::string audit() const = 0;
};

}  // namespace ramet::mm
