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

// Calls that change entries hold the address-space lock, but for those that take a Guard, which faults make without it:
// they hold it if their guard is empty. Looking (find, visit, table_at, absent) needs the lock or an rcu::Reader. The
// hardware reads meanwhile.
class PageTable {
 public:
  using Level = arch::Level;
  using Attributes = arch::Attributes;

  enum class State : std::uint8_t {
    Absent,
    Present,
    Kept,  // the hardware sees nothing, the frame is remembered: a PROT_NONE page with contents
    Changing,  // being replaced by another entry: seen only by who does not hold the lock of its table
  };

  // One slot that maps nothing or a frame. Absent: an empty slot, the largest around the address.
  struct Leaf {
    Gva start = 0;
    Level level = Level::Pte;
    State state = State::Absent;
    Gpa table = 0;  // that holds the slot
    Gpa address = 0;  // of the first byte of the leaf
    Attributes attributes = {};  // without write below a shared table
    bool table_shared = false;  // below one, or in one: unshare() it before it changes
    bool hidden = false;  // and the hardware does not even see it
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
  // The leaves around a present one, in the same table and at most `reach` bytes to either side of the address, that
  // go on where it ends and begin where it does, with the same attributes: as one range. `leaf` is find() of the
  // address.
  struct Stretch {
    Gva start, end;
    Gpa address;  // of the first byte
  };
  virtual Stretch like(const Leaf& leaf, Gva, std::uint64_t reach) const = 0;
  // Visits present and kept leaves that touch [start, end), in order. Skips what is absent by whole tables.
  virtual void visit(Gva start, Gva end, const std::function<void(const Leaf&)>&) const = 0;
  // Entries in use in a table.
  virtual unsigned entries(Gpa table) const = 0;
  // The table of that level around the address, if there is one.
  virtual std::optional<Gpa> table_at(Gva, Level) const = 0;
  // The stretches of empty slots in [start, end), which lies inside the table; as many as fit into `out`.
  struct Gap {
    Gva start, end;
  };
  virtual unsigned absent(Gpa table, Level, Gva start, Gva end, std::span<Gap> out) const = 0;
  // Where the frame of the empty slot at `at` would have to lie for the table to become one leaf; by the nearest
  // entry. Nothing if that cannot be.
  virtual std::optional<Gpa> place_for(Gpa table, Level, Gva at) const = 0;
  // The whole tree as it is, from the top: tables first, then what they hold. For people (`ramet inspect`).
  struct Node {
    Leaf leaf;  // state Present and `table`: a table, address and level are its own
    bool table = false;
    unsigned entries = 0;  // of the table
  };
  virtual void dump(const std::function<void(const Node&)>&) const = 0;

  // --- sharing: a freeze leaves the whole tree but its root to a layer: the entries of the root lead to shared tables
  // from then on. A table is copied when something below it is to change: leaves stay, but those whose frames others
  // may see can no longer be written. ---
  // A copy of the root's entries below `end`, for children to begin with. Errors: NoMemory.
  virtual Result<Gpa> copy_root(Gva end) RAMET_REQUIRES(address_space_lock) = 0;
  // Shares all tables below `end`. Strict: the batch says so.
  virtual void share_root(Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // Lets everything below `end` be as in a root of a layer, with so many frames. Precondition: nothing is mapped there.
  virtual void adopt_root(Gpa, Gva end, const Census&) RAMET_REQUIRES(address_space_lock) = 0;
  // Back to what adopt_root() made, whatever was changed since: the cost follows that. Frames of our own and tables
  // without changes go with the batch. Precondition: no fault maps anything there meanwhile.
  virtual void restore_root(Gpa, Gva end, const Census&, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // Makes the tables down to that level around the address our own, as far as there are any. Errors: NoMemory.
  [[nodiscard]] virtual Result<> unshare(Gva, Level, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // The tables that reach across an end of [start, end), so that unmap() finds each other one wholly inside or outside.
  // Errors: NoMemory.
  [[nodiscard]] virtual Result<> unshare_ends(Gva start, Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // All tables of [start, end). Errors: NoMemory.
  [[nodiscard]] virtual Result<> unshare_range(Gva start, Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // Of a table that was just left to a layer, and that nobody walks yet: the page is on another frame.
  virtual void substitute(Gpa table, Gva page, Gpa frame) RAMET_REQUIRES(address_space_lock) = 0;
  // Whether publish() may be asked to write there.
  virtual bool writable(Gpa table) const = 0;
  // Makes the tables above a leaf of that level, our own; returns the one that holds it. Errors: NoMemory; Invalid if a
  // larger leaf is in the way.
  [[nodiscard]] virtual Result<Gpa> prepare(Gva, Level, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // Maps `count` leaves of that table to consecutive frames. Precondition: prepare() returned it, and the slots are
  // absent.
  virtual void map(Gpa table, Gva, Level, Gpa, unsigned count, Attributes, FlushBatch&)
      RAMET_REQUIRES(address_space_lock) = 0;

  // What a fault without the address-space lock read before, and what must still be so under the table lock.
  struct Guard {
    const SequenceCount* sequence = nullptr;  // null: the caller holds the address-space lock
    std::uint32_t value = 0;
  };
  enum class Published { Done, Busy, Changed, TableGone, OverBudget };
  struct Run {
    Gva start;
    Gpa gpa;
    std::uint64_t pages;
  };
  struct Publication {
    Gpa table;
    Level level;
    std::span<const Run> runs;  // all in the table
    Gva address;  // of the access
    Attributes attributes;  // of the entry for it
    Attributes around;  // of the others
    Guard guard;
  };
  struct Outcome {
    Published how = Published::Done;
    bool uniform = false;  // the table could be one leaf now
    bool there = false;  // the address of the access is mapped now, by this or by somebody else
    std::uint32_t mapped = 0;  // leaves
  };
  // Fills empty slots, under the table lock; without the address-space lock it is tried once. Frames of slots that
  // somebody else filled meanwhile go to `left_over`; all of them, if it is not Done.
  virtual Outcome publish(const Publication&, std::vector<Run>& left_over) = 0;
  // An empty table in an empty slot of a PMD table, for a fault without the address-space lock. TableGone, too, if no
  // table is to be had without it. Done: it is `added`.
  virtual Published add_table(Gpa pmd_table, Gva, Guard, Gpa& added) = 0;
  // Copy-on-write: replaces leaves of one table, all as `seen`, by leaves on other frames with the same contents.
  // Flushes before anybody can use the new ones. Guard as in publish(). Nothing is replaced unless it is Done.
  struct Replacement {
    Leaf seen;
    Gpa frame;
    Attributes attributes;
  };
  virtual Published replace_leaves(std::span<const Replacement>, Guard, EntryFlush&) = 0;

  // Adds permission to a leaf that was read as `seen`. Changed: it is not like that any more, or would lose something.
  virtual Published upgrade(const Leaf& seen, Attributes, Guard, EntryFlush&) = 0;

  // Makes a leaf of the level above out of the table of that level around the address. The table goes to the batch.
  enum class Merged : std::uint8_t { Done, NotUniform, Misaligned };
  virtual Merged merge(Gva, Level, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // Whether it would find the table uniform.
  virtual bool uniform(Gva, Level) const = 0;
  // Afterwards no leaf reaches across `boundary`. Splits as little as needed. Errors: NoMemory.
  [[nodiscard]] virtual Result<> split(Gva boundary, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // Splits the leaf around the address until it is of that level or smaller. Errors: NoMemory.
  [[nodiscard]] virtual Result<> split_to(Gva, Level, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // Unmaps whole leaves; private frames and empty tables go to the batch. Precondition: split, and unshare_ends().
  virtual void unmap(Gva start, Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;
  // Gives every leaf what `rule` says: State::Absent is not allowed, Kept takes it from the hardware,
  // Present gives it back with the attributes. Precondition: split, and unshare_range().
  struct Change {
    State state;
    Attributes attributes = {};
  };
  virtual void update(Gva start, Gva end, const std::function<Change(const Leaf&)>& rule, FlushBatch&)
      RAMET_REQUIRES(address_space_lock) = 0;
  // The same of the one leaf that was found, without looking it up again. Precondition: the address-space lock has been
  // held since find() returned it, and its table is not shared.
  virtual void update_leaf(const Leaf&, const std::function<Change(const Leaf&)>& rule, FlushBatch&)
      RAMET_REQUIRES(address_space_lock) = 0;
  // Moves entries, not data. Whole tables where both addresses allow it. Precondition: split and unshare_ends() at the
  // source, nothing mapped at the destination. On an error (NoMemory) everything is where it was.
  [[nodiscard]] virtual Result<> move(Gva from, Gva to, std::uint64_t length, FlushBatch&)
      RAMET_REQUIRES(address_space_lock) = 0;

  virtual Census census() const = 0;
  // Recounts every table: entries in use against the books, and the census. Empty if all agrees.
  virtual std::string audit() const = 0;
};

}  // namespace ramet::mm
