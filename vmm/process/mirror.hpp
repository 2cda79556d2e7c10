// Mirror: what of a guest's page tables is mapped in its host process. The process's mappings are this machine's
// translation cache: filled from the tables when guest code faults, taken away by flushes. All threads of the process
// share them, so one cache serves all vCPUs.
//
//   a fill     under the mirror's lock: the tables are read, the mapping is noted, the vCPU's list is posted
//   a flush    entries have changed before; then under the lock: what is noted of its ranges is forgotten. A fill that
//              got the lock before us may still be carried out: it is waited for. One that comes later reads the new
//              entries. Then the ranges are unmapped: by the mapper, if guest code runs, else by whoever enters next.
//
// What is noted is never less than what is mapped, once a list has been carried out.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "guest-mm/address_space.hpp"
#include "guest-mm/tlb.hpp"
#include "vmm/process/child.hpp"

namespace ramet::vmm::process {

class Mirror {
 public:
  struct Range {
    mm::Gva start, end;
  };
  struct Mapping {
    mm::Gva end;
    int descriptor;
    std::uint64_t offset;
    std::uint64_t protection;
  };
  // A vCPU, as the mirror knows it. Guarded by the mirror's lock, but for what is said at the fields.
  struct Slot {
    Context context;
    // Guest code of this vCPU runs, or will without asking again. Set under the lock, before the list is posted;
    // cleared without it, release, once the list has been answered: what the vCPU did is over.
    std::atomic<bool> inside{false};
    std::uint32_t list = 0;           // its newest one with changes of mappings
    std::optional<std::pair<mm::Gva, Mapping>> filling;  // what that one maps
    bool settling = false;            // that one takes away what others must not use any more
  };
  struct Counts {
    std::uint64_t fills = 0, evictions = 0, mappings = 0;
  };

  // `capacity`: most host mappings. Both outlive it.
  Mirror(Child& child, const mm::AddressSpace& space, const mm::Memory& memory, std::size_t capacity)
      : child_(child), space_(space), memory_(memory), capacity_(capacity) {}

  void add(Slot&);
  void remove(Slot&);

  struct Wish {
    mm::Gva address;
    mm::Access access;
  };
  // Lets the vCPU go on into guest code, after these commands; `wish`: it faulted there, and if the tables allow what
  // it wanted, this is mapped on the way. Errors: ESRCH (the process has ended or does not answer), or why the process
  // cannot have the file behind the page. The command of the list that maps it, if one does.
  std::expected<std::optional<std::size_t>, int> enter(Slot&, std::optional<Wish> wish, std::vector<Command> commands);
  // The host refused a mapping: all go, and with them what it may have had too many of. By the next who enters.
  void evict();

  // Nothing in these ranges is used any more that was mapped before the call; no ranges: all.
  void flush(std::span<const mm::FlushRequest::Range>, bool everything);
  // What the process could write of files that are closed by now it no longer can: it has none of its descriptors and
  // mappings left, as it may have some that nobody knows of.
  void close_writable();

  Counts counts() const;

 private:
  struct Given {
    std::weak_ptr<const mm::MemoryFile> file;
    int number;
  };
  using Files = std::map<std::pair<std::uint64_t, bool>, Given>;  // by id and whether it can be written by it

  std::vector<Range> cut_locked(mm::Gva start, mm::Gva end);
  void note_locked(mm::Gva start, const Mapping&);
  std::vector<Command> unmap_locked(std::vector<Range>);
  // Everything goes, by the next who enters.
  void drop_all_locked();
  // After more was cut than anybody waits for: what lists under way may still map is noted.
  void note_underway_locked();
  // What to map for a wish; nothing: the tables do not allow it. `missing`: the file that the
  // process has to be given first.
  struct Missing {
    std::shared_ptr<const mm::MemoryFile> file;
    bool writable = false;
    bool none = false;         // there is no file: the page is in the VMM's memory alone
  };
  std::optional<std::pair<mm::Gva, Mapping>> fill_locked(const Wish&, Missing&);
  std::expected<void, int> give(const Missing&);
  // Every descriptor, and with `mappings` everything that was mapped. giving_ held.
  std::expected<void, int> take_all_back(bool mappings);
  bool wait_applied(const Context&, std::uint32_t list);
  struct Underway {
    Context context;
    std::uint32_t list;
  };
  void wait_for(const std::vector<Underway>&);

  Child& child_;
  const mm::AddressSpace& space_;
  const mm::Memory& memory_;
  const std::size_t capacity_;
  mutable std::mutex lock_;  // guards what follows. Order: address space, table locks > lock_. Nobody waits for the process with it
  std::vector<Slot*> slots_;
  std::map<mm::Gva, Mapping> mappings_;
  std::vector<Range> pending_;   // to be unmapped before guest code runs
  Files files_;
  Counts counts_;
  std::mutex giving_;            // one gives at a time. Order: before lock_
};

}  // namespace ramet::vmm::process
