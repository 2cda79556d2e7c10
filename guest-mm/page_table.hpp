// Page table: the operations on ranges of virtual addresses that the rest of guest-mm is written in,
// the same for every entry format. walker.hpp implements them, once.
#pragma once

#include <functional>
#include <memory>

#include "arch/entry.hpp"
#include "guest-mm/counters.hpp"
#include "guest-mm/flush.hpp"
#include "guest-mm/table_pool.hpp"
#include "guest-mm/types.hpp"

namespace ramet::mm {

enum class Format : std::uint8_t;

// Not thread-safe: every call under the address-space lock. The hardware reads meanwhile.
class PageTable {
 public:
  using Level = arch::Level;
  using Attributes = arch::Attributes;

  enum class State : std::uint8_t {
    Absent,
    Present,
    Kept,     // the hardware sees nothing, the frame is remembered: a PROT_NONE page with contents
  };

  // One slot that maps nothing or a frame. Absent: an empty slot, the largest around the address.
  struct Leaf {
    Gva start = 0;
    Level level = Level::Pte;
    State state = State::Absent;
    Gpa address = 0;             // of the first byte of the leaf
    Attributes attributes = {};
    std::uint64_t span() const { return arch::span_of(level); }
    Gva end() const { return start + span(); }
  };

  // Frames mapped, present and kept, by where they come from.
  struct Census {
    std::uint64_t pages = 0, blocks = 0, giants = 0;  // private bank, by leaf level
    std::uint64_t shared_pages = 0;                   // other banks, in 4 KiB pages
    bool operator==(const Census&) const = default;
  };

  // Errors: NoMemory. All arguments outlive the table.
  static Result<std::unique_ptr<PageTable>> create(Format, const Memory&, TablePool&, Counters&);
  virtual ~PageTable() = default;

  virtual Gpa root() const = 0;
  virtual Leaf find(Gva) const = 0;
  // Visits present and kept leaves that touch [start, end), in order. Skips what is absent by whole tables.
  virtual void visit(Gva start, Gva end, const std::function<void(const Leaf&)>&) const = 0;
  // Entries in use in the table at `level` around the address; 0 if there is no table.
  virtual unsigned entries(Gva, Level) const = 0;

  // Makes the tables above a leaf of that level. Errors: NoMemory; Invalid if a larger leaf is in the way.
  [[nodiscard]] virtual Result<> prepare(Gva, Level) = 0;
  // Maps `count` leaves of one table to consecutive frames. Precondition: prepared, and the slots absent.
  virtual void map(Gva, Level, Gpa, unsigned count, Attributes, FlushBatch&) = 0;
  // Afterwards no leaf reaches across `boundary`. Splits as little as needed. Errors: NoMemory.
  [[nodiscard]] virtual Result<> split(Gva boundary, FlushBatch&) = 0;
  // Unmaps whole leaves; private frames and empty tables go to the batch. Precondition: split at both ends.
  virtual void unmap(Gva start, Gva end, FlushBatch&) = 0;
  // Gives every leaf what `rule` says: State::Absent is not allowed, Kept takes it from the hardware,
  // Present gives it back with the attributes. Precondition: split at both ends.
  struct Change {
    State state;
    Attributes attributes = {};
  };
  virtual void update(Gva start, Gva end, const std::function<Change(const Leaf&)>& rule, FlushBatch&) = 0;
  // Moves entries, not data. Whole tables where both addresses allow it. Precondition: split at both ends,
  // nothing mapped at the destination. On an error (NoMemory) everything is where it was.
  [[nodiscard]] virtual Result<> move(Gva from, Gva to, std::uint64_t length, FlushBatch&) = 0;

  const Census& census() const { return census_; }
  // Recounts every table: entries in use against the books, and the census. Empty if all agrees.
  virtual std::string audit() const = 0;

 protected:
  Census census_;
};

}  // namespace ramet::mm
