// Address space: the regions, the page table and the accounting of one VM (Linux: mm_struct).
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arch/entry.hpp"
#include "guest-mm/account.hpp"
#include "guest-mm/backing.hpp"
#include "guest-mm/bank.hpp"
#include "guest-mm/counters.hpp"
#include "guest-mm/host_memory.hpp"
#include "guest-mm/pin_book.hpp"
#include "guest-mm/region.hpp"
#include "guest-mm/space_lock.hpp"
#include "guest-mm/tlb.hpp"
#include "guest-mm/types.hpp"

namespace ramet::mm {

class FramePool;
class PageTable;
class FlushBatch;
class Pin;
struct FrozenMemory;

// The entry format of the guest's tables, one per architecture and stage; chosen at run time:
// PageTable::create() makes the Walker for it.
enum class Format : std::uint8_t { X86_64Stage1, Arm64Stage1, Arm64Stage2 };

struct MapRequest {
  Gva address = 0;              // a hint, or the place itself with `fixed`
  std::uint64_t length = 0;     // bytes, rounded up to pages; not 0
  Prot prot = Prot::None;
  bool fixed = false;           // MAP_FIXED: replaces what was there
  bool no_replace = false;      // with fixed: Exists instead of replacing
  bool shared = false;          // MAP_SHARED
  bool grows_down = false;      // MAP_GROWSDOWN: a fault just below the region extends it
  bool locked = false;          // MAP_LOCKED
  bool populate = false;        // MAP_POPULATE: map what can be mapped at once; shortage is not an error
  std::shared_ptr<Backing> backing = {};  // null: anonymous
  std::uint64_t offset = 0;     // page-aligned offset into backing
  std::string name = {};        // for /proc/self/maps: "[heap]", "[stack]"
  Prot max_prot = kAllProt;     // what protect() may later ask for: without Write for a file opened read-only
};

enum class Advice : std::uint8_t {
  DontNeed,
  DontNeedLocked,
  Free,
  Lock,
  Unlock,
  Huge,
  NoHuge,
  DontFork,
  DoFork,
  WipeOnFork,
  KeepOnFork,
  WillNeed,
  Cold,
  PopulateRead,
  PopulateWrite
};

struct RemapRequest {
  Gva address = 0;
  std::uint64_t old_length = 0, new_length = 0;
  bool may_move = false;        // MREMAP_MAYMOVE
  bool fixed = false;           // MREMAP_FIXED
  bool dont_unmap = false;      // MREMAP_DONTUNMAP
  Gva new_address = 0;
  // For a shared region that grows beyond its bank: `backing`, of the same object and with a bank for all of the new
  // range, replaces `in_place_of`. NotMapped if the region's backing is no longer that.
  std::shared_ptr<Backing> backing = {};
  std::shared_ptr<Backing> in_place_of = {};
};

// How a fault ended. Spurious: the entry allowed the access by then.
struct FaultOutcome {
  enum class Kind : std::uint8_t { Mapped, Spurious } kind;
};

// A piece of guest memory as the host sees it. `keep` holds the bank while the piece is in use. A piece to be written
// is pinned as well: otherwise a fork meanwhile could leave the guest with a copy that lacks what is written.
struct HostRange {
  HostBytes bytes;
  std::shared_ptr<Bank> keep;
  PinHold pinned = {};

  // Appends `next` if it follows in host memory, in the same bank and pinned alike. False: the piece is as it was.
  bool join(HostRange& next) {
    HostBytes both = bytes;
    if (!both.join(next.bytes) || keep.get() != next.keep.get() || !pinned.extend(next.pinned)) return false;
    bytes = both;
    return true;
  }
};

// Frames by what they hold. Exact whenever the address-space lock is free; while a change is under way, only each
// number by itself is.
struct Usage {
  std::uint64_t data_pages_4k = 0;   // frames mapped by 4 KiB entries
  std::uint64_t data_blocks_2m = 0;  // frames mapped by 2 MiB entries, in blocks
  std::uint64_t inherited_pages = 0; // frames of layers mapped, in 4 KiB pages; not the VM's own
  std::uint64_t shared_pages = 0;    // pages of shared files mapped; not from the private bank
  std::uint64_t table_pages = 0, table_limit_pages = 0;
  std::uint64_t peak_bytes = 0;      // most bytes of the private bank in use so far
  std::uint64_t held_bytes = 0, peak_held_bytes = 0;  // by the VMM for the guest, from the same limit
  std::uint64_t limit_bytes = 0;     // most that frames and held_bytes may come to: Config::limit_bytes
  std::uint64_t quarantined_pages = 0;  // of the private bank, never handed out again
  std::uint64_t data_bytes() const { return data_pages_4k * kPageSize + data_blocks_2m * kBlockSize; }
};

// Locks: README.md gives their order. fault() tries to do without the address-space lock (speculative_fault.cpp): a
// fault that copies a page or adds permission may call Tlb::flush() without it; all other callers hold the lock
// (tlb.hpp).
class AddressSpace {
 public:
  // Deferred exec: when fetches are made to see what was written. Eager: with each entry that lets code run.
  // Lazy: entries withhold execution until the first fetch faults. Adaptive: whichever was cheaper so far, by region
  // and by why entries are new (exec_history.hpp).
  enum class ExecSync : std::uint8_t { Eager, Lazy, Adaptive };
  struct Config {
    Format format = Format::X86_64Stage1;
    Gva start = 0x10000;  // lowest address a program may map (vm.mmap_min_addr)
    Gva end = 0x7fff'ffff'f000;  // exclusive
    Gva mmap_top = 0x7fff'f000'0000;  // free ranges are searched downwards from here
    Gva tag_bits = 0;  // ignored in addresses that the guest passes (arm64: top-byte ignore)
    bool blocks = true;  // 2 MiB leaves
    bool giants = false;  // 1 GiB leaves: the processor has them
    bool merge = true;  // huge mappings that heal; off: split leaves stay split
    ExecSync exec_sync = ExecSync::Eager;  // counts only where Tlb::needs_exec_sync()
    std::uint64_t exit_cost = 0;  // ns that the guest's way out and back takes, for Adaptive
    bool relaxed_flushes = true;  // off: every flush is strict
    bool pinned_cow = true;  // pin-aware copy-on-write; off: pins count for nothing
    bool speculative_faults = true;  // off: every fault takes the address-space lock
    std::uint64_t speculative_frames = 0;  // most frames in flight, taken by faults without the lock and not yet
                                           // mapped; 0: an eighth of the private bank
    // New entries have the accessed bit set and, if writable, the dirty bit. Off: only those that the faulting access
    // needs; the processor, or a fault, sets the rest. Entries that were never accessed then go without a flush, which
    // is all that the bits are used for. Off is for processors that set them cheaply.
    bool eager_accessed_dirty = true;
    unsigned around_pages = 16;  // first fault-around window, 4 KiB pages, a power of two up to 512;
                                 // 1 switches fault-around off
    std::uint64_t stack_limit = 8 << 20;  // how far a grows_down region may grow, bytes (RLIMIT_STACK)
    std::size_t max_regions = 65530;  // vm.max_map_count
    std::uint64_t limit_bytes = 0;  // most memory in use; 0: all of the private bank
    std::size_t many_layers = 16;  // a freeze with this many layers below drops those that are no longer referenced
  };

  // `memory` and `tlb` outlive the address space. Errors: NoMemory.
  static Result<std::unique_ptr<AddressSpace>> create(const Config&, Memory& memory, Tlb& tlb);
  ~AddressSpace();

  // --- what system calls do; arguments come from the guest and are checked here. Lengths are bytes, rounded up to
  // pages; addresses must be page-aligned, or it is Invalid. On an error nothing has changed, unless stated. ---
  // mmap(2): returns the start of the new region. Errors: Invalid (also no length, or offset + length overflows),
  // NotPermitted (`prot` exceeds `max_prot`; `fixed` below Config::start), Exists (`no_replace`), NoMemory (no free
  // range, too many regions, no slot of the machine for the object's bank). After NoMemory what `fixed` replaces may be
  // gone.
  Result<Gva> map(const MapRequest&) RAMET_EXCLUDES(address_space_lock);
  // munmap(2): the range may have holes. Errors: Invalid (also no length, or beyond the guest's addresses), NoMemory
  // (too many regions, or no table to split a leaf).
  Result<> unmap(Gva address, std::uint64_t length) RAMET_EXCLUDES(address_space_lock);
  // mprotect(2), which changes the pages before the first that it cannot change. Errors: Invalid, NotMapped (a hole),
  // NotPermitted (beyond the region's max_prot), NoMemory (as unmap(); nothing has changed).
  Result<> protect(Gva address, std::uint64_t length, Prot prot) RAMET_EXCLUDES(address_space_lock);
  // mremap(2): returns the start of the mapping. Errors: Invalid, NotMapped (the old range is not in one region),
  // NoMemory (as map(), or it cannot grow in place and may not move). After an error the mapping is where it was, but
  // what a `fixed` request replaces or cuts off may be gone.
  Result<Gva> remap(const RemapRequest&) RAMET_EXCLUDES(address_space_lock);
  // madvise(2), which goes on after a hole, but stops at a region to which the advice does not apply. Errors: Invalid
  // (also such a region), NotMapped (a hole), NoMemory; those of fault() for PopulateRead and PopulateWrite.
  Result<> advise(Gva address, std::uint64_t length, Advice) RAMET_EXCLUDES(address_space_lock);
  // msync(2) of the shared objects in the range; `wait` until they are on disk. Errors: Invalid, Io, NotMapped (a hole;
  // the rest is synced).
  Result<> sync(Gva address, std::uint64_t length, bool wait) RAMET_EXCLUDES(address_space_lock);
  // One byte per page, bit 0 set if it is in memory (mincore): an anonymous page once the program has touched it, a
  // page of an object once any program has. Errors: NotMapped, Invalid.
  Result<> residency(Gva address, std::uint64_t length, std::span<std::uint8_t> out) RAMET_EXCLUDES(address_space_lock);
  // A shared file shrank: entries of pages beyond `size` go, so that touching them faults again.
  void truncated(const Backing&, std::uint64_t size) RAMET_EXCLUDES(address_space_lock);

  // --- faults ---
  // Resolves a guest fault on `address`. Many threads at once. Errors: NotMapped, NotPermitted,
  // BeyondEnd, Io, NoMemory; the caller turns them into signals.
  Result<FaultOutcome> fault(Gva address, Access access) RAMET_EXCLUDES(address_space_lock);

  // The longest run of pages around `address` that the tables let user code reach in the same way, in consecutive
  // frames; at most `reach` bytes to either side, and not beyond the table that holds it. nullopt if user code may not
  // read there. For machines that cache translations of their own. Takes no lock: the result held at some moment of the
  // call, and a machine that keeps it longer must be able to tell that a flush has come since the call began.
  struct Translation {
    Gva start = 0;
    std::uint64_t bytes = 0;
    Gpa frame = 0;  // of `start`
    bool write = false, execute = false;
    bool allows(Access a) const { return a == Access::Read || (a == Access::Write ? write : execute); }
  };
  std::optional<Translation> translate(Gva address, std::uint64_t reach) const;

  // --- guest memory as the VMM uses it; faults pages in as the guest's own access would ---
  // Copy bytes from any address on, over several regions. Errors: as fault(); the bytes before the page that cannot be
  // reached have been copied.
  Result<> read(Gva address, std::span<std::byte> out) RAMET_EXCLUDES(address_space_lock);
  Result<> write(Gva address, std::span<const std::byte> in) RAMET_EXCLUDES(address_space_lock);
  // Writes code that no thread has entered yet into a private region that is executable and not writable, through the
  // VMM's own mapping of its frames. Here alone, a frame is written while entries let code run from it. Fetches see the
  // code when this returns; a thread is told the address only then, and enters user mode after that. Errors: as pin();
  // NotPermitted: a region of another kind.
  Result<> write_code(Gva address, std::span<const std::byte> in) RAMET_EXCLUDES(address_space_lock);
  // Bytes of a zero-terminated string, without the zero. Errors as fault(), Invalid if longer than limit.
  Result<std::string> read_string(Gva address, std::size_t limit) RAMET_EXCLUDES(address_space_lock);
  // Appends the host pieces of [address, address+length), kMostPieces at most, up to the first page that cannot be
  // reached. Returns the bytes appended; an error, as fault(), only if there are none.
  static constexpr std::size_t kMostPieces = 1024;  // as many as one readv(2) of the host takes
  Result<std::uint64_t> gather(Gva address, std::uint64_t length, Access access, std::vector<HostRange>& out)
      RAMET_EXCLUDES(address_space_lock);
  // Pins all of [address, address+length) for a device that reads or writes it, faulted in and made exclusive first.
  // Long: for longer than a system call; pages that are not pinned yet move to the pin bank, which is in no child's
  // memory. All or nothing, except that it stops after `most` host pieces. The list of pieces is charged to the
  // account. Errors: as fault(), NoMemory.
  enum class PinTerm : std::uint8_t { Short, Long };
  Result<Pin> pin(Gva address, std::uint64_t length, Access, PinTerm, std::size_t most = ~std::size_t{0})
      RAMET_EXCLUDES(address_space_lock);
  // An aligned 4-byte word, for futexes. Errors as fault(), Invalid if misaligned.
  Result<HostWord> word(Gva address, Access access = Access::Write) RAMET_EXCLUDES(address_space_lock);

  // --- the VMM's own mappings above the guest's: stub pages, the linear map of the table bank ---
  // Maps pages of the machine, in the table bank or below Memory::kTableBase, for the guest's ring 0 alone. Address,
  // frame and length (bytes) are whole pages, outside [Config::start, Config::end). Errors: Invalid (also no
  // protection, or write with execute), Exists, NoMemory; the pages before the one that failed stay mapped.
  Result<> map_kernel(Gva address, Gpa gpa, std::uint64_t length, Prot prot) RAMET_EXCLUDES(address_space_lock);
  // The same for user code, without a region. Errors: also Invalid with Prot::Write.
  Result<> map_for_user(Gva address, Gpa gpa, std::uint64_t length, Prot prot) RAMET_EXCLUDES(address_space_lock);
  // A zeroed frame for such pages, from the table bank; freed with the address space. Errors: NoMemory.
  Result<Gpa> allocate_kernel_frame() RAMET_EXCLUDES(address_space_lock);

  // The linear map: all of the private bank at `address` (aligned to 1 GiB) for ring 0, writable, in the largest
  // leaves the processor has. Once. Errors: Invalid (also for stage 2, which has no ring 0), Exists, NoMemory.
  Result<> map_linear(Gva address) RAMET_EXCLUDES(address_space_lock);
  // Changes a part of it; write and execute exclude each other. Splits as little as needed, and merges what became
  // alike. Errors: Invalid (not in the bank), NoMemory.
  Result<> protect_linear(Gpa, std::uint64_t length, Prot) RAMET_EXCLUDES(address_space_lock);
  // The 2 MiB blocks that hold the part are mapped by 4 KiB pages from now on, and never merged. Errors: as
  // protect_linear().
  Result<> keep_linear_4k(Gpa, std::uint64_t length) RAMET_EXCLUDES(address_space_lock);

  // --- migration (migrate.cpp) ---
  // Moves the pages of a range to other frames while the guest runs, with their permissions and contents. Pages that
  // devices have pinned, pages of layers and of objects stay where they are. Blocks stay blocks. For Compaction
  // and Contiguous, each whole table of small pages goes into a run of frames, and becomes a block where the region
  // takes one. After MemoryFailure the old frames are quarantined.
  struct MigrateRequest {
    Gva address = 0;
    std::uint64_t length = 0;
    MoveReason reason = MoveReason::Explicit;
    std::optional<unsigned> node =
        {};  // where to, less than FramePool::kNodes; pages that are there stay. None: anywhere
  };
  // 4 KiB pages, by what became of them.
  struct Migrated {
    std::uint64_t moved = 0, pinned = 0, shared = 0, failed = 0;
  };
  // Errors: Invalid (not page-aligned, no such node). What could not be moved is no error.
  Result<Migrated> migrate(const MigrateRequest&) RAMET_EXCLUDES(address_space_lock);
  // Frames for the range come from that node from now on, or from anywhere. Errors: Invalid, NotMapped (a hole; nothing
  // has changed), NoMemory (too many regions).
  Result<> bind(Gva address, std::uint64_t length, std::optional<unsigned> node) RAMET_EXCLUDES(address_space_lock);
  // The node of the page's frame; nothing if there is none.
  std::optional<unsigned> node_of(Gva address) const RAMET_EXCLUDES(address_space_lock);
  // As measured so far; 0 before the first measurement.
  ExecCosts exec_costs() const;

  // Splits all leaves of a range down to that level, as protecting parts of it would. For tests and measurements: they
  // merge again when something in their table changes. Errors: Invalid, NoMemory.
  Result<> split(Gva address, std::uint64_t length, arch::Level smallest) RAMET_EXCLUDES(address_space_lock);
  // Merges every uniform table of a range that its rules allow. Returns the leaves made.
  std::uint64_t merge(Gva address, std::uint64_t length) RAMET_EXCLUDES(address_space_lock);
  // For tests and measurements: flushes now for the tables that merges took away. Otherwise they wait for a strict
  // flush.
  void flush_deferred() RAMET_EXCLUDES(address_space_lock);

  // --- layers (freeze.cpp) ---
  // Leaves all memory to a layer, and goes on as the first child of what is returned. Other threads may run: what they
  // wrote before their vCPU was flushed is frozen, what they write afterwards is not. Pinned frames stay with this
  // space, and the layer gets copies. Errors: NoMemory; then nothing has changed.
  Result<std::shared_ptr<const FrozenMemory>> freeze() RAMET_EXCLUDES(address_space_lock);
  // Becomes a child of the frozen memory: the same contents, copied when they are written. Once, before anything was
  // mapped and before a vCPU runs; both VMs have the same PhysicalSpace. Errors: Invalid, NoMemory.
  Result<> adopt(const std::shared_ptr<const FrozenMemory>&) RAMET_EXCLUDES(address_space_lock);
  // Copies at once the pages that were written soon after earlier freezes, as far as there is memory: after a fork this
  // saves both sides their first faults.
  void copy_hot(const FrozenMemory&) RAMET_EXCLUDES(address_space_lock);
  // Back to the memory it adopted: contents and regions as they were then. No vCPU is in user code. The cost follows
  // what was written since. Errors: Pinned, Invalid (it adopted another one), NoMemory; nothing has changed then.
  Result<> reset(const FrozenMemory&) RAMET_EXCLUDES(address_space_lock);

  // --- contents that outlive the VM (contents.cpp) ---
  // Visits the pages of private regions in address order, under the lock; the frames of an extent may lie in several
  // banks. The callback must not call back.
  void visit_contents(const std::function<void(const Region&, const Extent&)>&) const
      RAMET_EXCLUDES(address_space_lock);
  // Becomes a space with these regions, in address order; their private memory holds what the extents name in the
  // data of `layer`, copied when it is written. Extents in address order, each inside one private region. Once,
  // before anything was mapped and before a vCPU runs. Errors: Invalid (any of this does not hold), NoMemory; the space
  // is of no use then.
  Result<> restore(std::shared_ptr<const Layer> layer, Gva mmap_top, std::span<const Region>, std::span<const Extent>)
      RAMET_EXCLUDES(address_space_lock);
  Gva mmap_top() const RAMET_EXCLUDES(address_space_lock);  // where free ranges are searched from, downwards
  std::int64_t pins() const;  // held now; a frame may have several

  Gpa root() const;  // CR3 / TTBR0
  // Visits regions in address order, all as they were at one moment; the callback must not call back. Takes the lock if
  // that is free within some 10 ms: a change may hold it for ever, if the machine waits for a vCPU that does not
  // answer. Without the lock, that moment may lie inside a change: a mapping that is being replaced may be missing.
  void visit_regions(const std::function<void(const Region&)>&) const RAMET_EXCLUDES(address_space_lock);
  std::optional<Region> find_region(Gva address) const RAMET_EXCLUDES(address_space_lock);
  // Visits the page tables from the top without a lock: while other threads change them, it sees each entry
  // as it was at some moment. The callback must not call back.
  struct Node {
    Gva start = 0;  // sign-extended
    arch::Level level = arch::Level::Pte;
    Gpa address = 0;  // of the table, or of the first byte mapped
    bool table = false, kept = false, changing = false;
    unsigned entries = 0;  // of a table
    arch::Attributes attributes = {};
  };
  void dump(const std::function<void(const Node&)>&) const;
  Usage usage() const;  // without the lock
  std::uint64_t limit_bytes() const;  // most that its frames and what the VMM holds for it may come to
  const std::shared_ptr<Account>& account() const;
  const Counters& counters() const { return counters_; }
  Memory& physical() const { return memory_; }

  // Recounts regions, entries and frames from scratch and compares with the books. For tests and debug
  // builds: returns a sentence that says what differs, empty if all agrees.
  std::string audit() const RAMET_EXCLUDES(address_space_lock);

 private:
  struct Impl;
  AddressSpace(const Config&, Memory&, Tlb&);
  Memory& memory_;
  Counters counters_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ramet::mm
