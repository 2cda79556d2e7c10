// Mirror: what of a guest's page tables is mapped in its host process. The process's mappings are this machine's
// translation cache: filled from the tables when guest code faults, taken away by flushes. All threads of the process
// share them, so one cache serves all vCPUs.
//
//   a fill     under the mirror's lock: the tables are read, the mapping is noted, the vCPU's list is posted. Lists and
//              changes under way that differ there are waited for first: whichever came last would stay, whatever is
//              noted
//   a flush    entries have changed before; then under the lock: what is noted of its ranges is compared with the
//              tables. What they still say stays, what they say otherwise is mapped anew, the rest is unmapped. A list
//              that changes something there, and got the lock before us, may still be carried out: it is waited for.
//              One that comes later reads the new entries. The changes are made by the mapper, if guest code runs, else
//              by the next vCPU that enters: in the order in which they got the lock, so that none brings back what a
//              later one took away.
//   a gain     permission was only added: what is noted is mapped anew by the next vCPU that enters, unless a flush
//              comes first. Recently touched pages are prefaulted in the same way, in a new process and in one that all
//              descriptors and mappings were taken from
// Where threads may not map (Mapper::threads_map()) a vCPU that enters has the mapper make such changes first, the fill
// among them, and then looks again; lists change nothing.
//
// What is noted is never less than what is mapped, once all lists have been carried out. It may be more: guest code
// then faults there once more.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "guest-mm/address_space.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "guest-mm/tlb.hpp"
#include "vmm/process/mapper.hpp"

namespace ramet::vmm::process {

class Mirror {
 public:
  using Range = mm::Range;
  struct Mapping {
    mm::Gva end;
    int descriptor;
    std::uint64_t offset;
    std::uint64_t protection;
  };
  using Placed = std::pair<mm::Gva, Mapping>;
  // A range to map anew; nullopt: to unmap.
  struct Change {
    Range range;
    std::optional<Mapping> to;
  };
  // A vCPU, as the mirror knows it. Guarded by the mirror's lock, but for what is said at the fields.
  struct Slot {
    Context context;
    // Guest code of this vCPU runs, or will without asking again. Set under the lock, before the list is posted;
    // cleared without it, release, once the list has been answered: what the vCPU did is over.
    std::atomic<bool> inside{false};
    std::uint32_t list = 0;  // its newest one
    std::vector<Change> changes;  // of that list
    bool strict = false;  // that list carries out flushes: no other vCPU may enter before
  };
  struct Counts {
    std::uint64_t fills = 0, refills = 0, evictions = 0, mappings = 0;
  };

  // `capacity`: most host mappings. What is referred to outlives the mirror.
  Mirror(Mapper& mapper, const mm::AddressSpace& space, const mm::Memory& memory, std::size_t capacity)
      : mapper_(mapper), space_(space), memory_(memory), capacity_(capacity) {}

  void add(Slot&) RAMET_EXCLUDES(lock_);
  void remove(Slot&) RAMET_EXCLUDES(lock_);

  struct Wish {
    mm::Gva address;
    mm::Access access;
  };
  // Lets the vCPU go on into guest code, after these commands; `wish`: it faulted there, and if the tables allow the
  // access, the page is mapped on the way. Errors: ESRCH: the process has ended or does not answer; ENXIO: the page is
  // in no file; else why the process cannot be given the file.
  struct Entered {
    std::optional<std::size_t> fill;  // the command of its list that maps what was wished, if one does
    bool refused = false;  // the mapper was to map it, and the host refused
  };
  std::expected<Entered, int> enter(Slot&, std::optional<Wish> wish, std::vector<Command> commands)
      RAMET_EXCLUDES(giving_, lock_);
  // After the host has refused a mapping, as of too many: the next vCPU that enters unmaps everything.
  void evict() RAMET_EXCLUDES(lock_);

  // When it returns, no vCPU uses anything in these ranges that the tables do not say; `everything`: anywhere.
  void flush(std::span<const Range>, bool everything) RAMET_EXCLUDES(lock_);
  // Entries of these ranges allow more than before.
  void gained(std::span<const Range>) RAMET_EXCLUDES(lock_);
  // The pages that guest code faulted on last.
  std::vector<mm::Gva> touched() const RAMET_EXCLUDES(lock_);
  // Guest code is likely to touch these: they are mapped when a vCPU enters for the first time. A hint: nothing is
  // mapped but what the tables say.
  void expect(std::span<const mm::Gva>) RAMET_EXCLUDES(lock_);
  // Maps them now, before any vCPU enters. Errors: as of enter().
  std::expected<void, int> map_expected() RAMET_EXCLUDES(giving_, lock_);
  // If the process can write a file that is closed by now, takes away all its descriptors and mappings: guest code that
  // took it over may have made some that the mirror does not know of.
  void close_writable() RAMET_EXCLUDES(giving_, lock_);

  Counts counts() const RAMET_EXCLUDES(lock_);

 private:
  static constexpr Range kAll{0, RAMET_USER_END};
  struct Given {
    std::weak_ptr<const mm::MemoryFile> file;
    int number;
  };
  using Files = std::map<std::pair<std::uint64_t, bool>, Given>;  // by file id, and whether the descriptor is writable

  // Changes that the mapper is to make.
  struct Batch {
    std::uint64_t number;
    std::vector<Change> changes;
    bool strict = false;  // as a slot's
  };
  // A list of a vCPU that may not have been carried out yet.
  struct Underway {
    Context context;
    std::uint32_t list;
  };

  static Command command(const Change&);
  // The part of a mapping that lies within a range.
  static Mapping part(const Placed&, const Range& within);
  // Whether both have the same descriptor and protection, and map a page that both reach to the same offset.
  static bool same(const Placed&, const Placed&);
  static void add(std::vector<Change>&, const Change&);
  static bool touches(const std::vector<Change>&, std::span<const Range>);
  // Whether one of the changes maps something else than `fill` does, or unmaps, where it overlaps `fill`.
  static bool differs(const std::vector<Change>&, const Placed& fill);

  void count_refills_locked(const std::vector<Change>&) RAMET_REQUIRES(lock_);
  std::vector<Placed> noted_locked(const Range&) const RAMET_REQUIRES(lock_);
  void cut_locked(const Range&) RAMET_REQUIRES(lock_);
  void note_locked(mm::Gva start, const Mapping&) RAMET_REQUIRES(lock_);
  void note_touched_locked(mm::Gva page) RAMET_REQUIRES(lock_);
  // Compares what is noted of the range with the tables; where they differ, notes what they say and adds the change.
  void review_locked(const Range&, std::vector<Change>&) RAMET_REQUIRES(lock_);
  // Makes more changes than a list can hold into one that unmaps all from the first to the last.
  void bound_locked(std::vector<Change>&) RAMET_REQUIRES(lock_);
  // Notes that a range is unmapped, but for what lists and batches under way may still map there.
  void forget_locked(const Range&) RAMET_REQUIRES(lock_);
  // The next vCPU that enters unmaps everything.
  void drop_all_locked() RAMET_REQUIRES(lock_);
  std::vector<Underway> underway_locked(std::span<const Range>) const RAMET_REQUIRES(lock_);
  // What must be carried out before the vCPU of that slot may enter and map `fill`: the list of another slot, and all
  // batches up to that one; 0: none.
  std::pair<std::optional<Underway>, std::uint64_t> ahead_locked(const Slot&, const std::optional<Placed>& fill) const
      RAMET_REQUIRES(lock_);
  std::uint64_t start_batch_locked(std::vector<Change>, bool strict = false) RAMET_REQUIRES(lock_);
  // Has the mapper make the changes of that batch, after all earlier batches and these lists. `without_files`: it
  // closes all descriptors first. False: the host refused some, and nothing is mapped. Errors: ESRCH.
  std::expected<bool, int> make_batch(std::uint64_t number, const std::vector<Underway>&, bool without_files = false)
      RAMET_EXCLUDES(lock_);
  // Waits until no batch up to that one is left.
  void wait_for_batches(std::uint64_t number) RAMET_EXCLUDES(lock_);
  struct Wanted {
    std::shared_ptr<const mm::MemoryFile> file;
    bool writable = false;
    std::pair<std::uint64_t, bool> key() const { return {file->id(), writable}; }
  };
  struct Missing {
    std::vector<Wanted> files;  // that the process does not have yet, no more than it can be given at once
    bool none = false;  // there is no file: the page is in the VMM's memory alone
    std::shared_ptr<const mm::Bank> bank;  // whose page is yet to be brought
    mm::Gpa frame = 0;  // that page
  };
  // What the tables say around an address, as far as one mapping can have it. Nothing: they have no page there that may
  // be used in all of these ways, or what is missing must be there first.
  std::optional<Placed> seen_locked(mm::Gva, std::uint64_t protection, Missing&) const RAMET_REQUIRES(lock_);
  // Gives the process those of the files that it does not have yet. Errors: as of enter().
  std::expected<void, int> give(std::span<const Wanted>) RAMET_EXCLUDES(giving_, lock_);
  // What the tables say of the expected pages. Adds files that this takes to `missing`.
  std::vector<Change> expected_locked(Missing&) const RAMET_REQUIRES(lock_);
  void note_expected_locked(const std::vector<Change>& found, std::vector<Change>& changes) RAMET_REQUIRES(lock_);
  // Takes all descriptors from the process, and with `mappings` unmaps everything.
  std::expected<void, int> take_all_back(bool mappings) RAMET_REQUIRES(giving_) RAMET_EXCLUDES(lock_);
  bool wait_applied(const Context&, std::uint32_t list) RAMET_EXCLUDES(lock_);
  void wait_for(const std::vector<Underway>&) RAMET_EXCLUDES(lock_);

  Mapper& mapper_;
  const mm::AddressSpace& space_;
  const mm::Memory& memory_;
  const std::size_t capacity_;
  mutable Mutex lock_;  // not held while the process is waited for. Order: vmm/README.md
  std::vector<Slot*> slots_ RAMET_GUARDED_BY(lock_);
  std::map<mm::Gva, Mapping> mappings_ RAMET_GUARDED_BY(lock_);
  std::vector<Change> pending_ RAMET_GUARDED_BY(lock_);  // to be made before guest code runs
  std::vector<Change> gains_ RAMET_GUARDED_BY(lock_);  // that may be made, as long as no flush changes anything
  // Pages that guest code faulted on last; pages to prefault at the next entry. At most kMostGains each.
  std::vector<mm::Gva> touched_ RAMET_GUARDED_BY(lock_), expected_ RAMET_GUARDED_BY(lock_);
  std::list<Batch> batches_ RAMET_GUARDED_BY(lock_);  // in the order in which the mapper makes them
  std::uint64_t last_batch_ RAMET_GUARDED_BY(lock_) = 0;
  std::condition_variable batch_done_;
  Files files_ RAMET_GUARDED_BY(lock_);
  Counts counts_ RAMET_GUARDED_BY(lock_);
  Mutex giving_;  // held while descriptors are given or taken back
};

}  // namespace ramet::vmm::process
