// Banks: contiguous host mappings that frames come from; each is a KVM memslot, or a few.
// Layers: parts of a VM's banks that a freeze has sealed, for other VMs to stand on.
// Memory: the list of a VM's banks, and the translation from guest-physical to host addresses.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "guest-mm/memory_file.hpp"
#include "guest-mm/page_source.hpp"
#include "guest-mm/physical_space.hpp"
#include "guest-mm/space_lock.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "guest-mm/types.hpp"

namespace ramet::mm {

class Bank {
 public:
  // Private zero-filled host memory, taken from the host as it is touched (MAP_NORESERVE).
  // base and size are multiples of kBlockSize; the host address is kBlockSize-aligned as well, so that
  // a guest block can be a host huge page. Errors: NoMemory.
  static Result<std::shared_ptr<Bank>> anonymous(Gpa base, std::uint64_t size);

  // The same in a memory file, of which other VMs get private_copy()s. Without huge pages. Errors: NoMemory.
  static Result<std::shared_ptr<Bank>> memory_file(Gpa base, std::uint64_t size);
  // A copy-on-write mapping (MAP_PRIVATE) of a page-aligned part of a memory file: pages that are not written here show
  // the file's. Errors: NoMemory; Invalid if it is no memory file.
  Result<std::shared_ptr<Bank>> private_copy(Gpa start, Gpa end) const;

  // The same as anonymous(), in memory files that a machine can map elsewhere, see renew(). Errors: NoMemory.
  static Result<std::shared_ptr<Bank>> in_files(Gpa base, std::uint64_t size);
  // Of in_files(): maps [start, end), block-aligned and with no frame in use, from another file: the
  // newest one or, with `apart`, one that has such parts only. It reads as zeroes. Errors: NoMemory; then it is mapped
  // as it was, or from the other file in part.
  Result<> renew(Gpa start, Gpa end, bool apart) RAMET_EXCLUDES(files_lock_);
  // The newest file is closed: renew() begins another. Errors: NoMemory.
  Result<> begin_file() RAMET_EXCLUDES(files_lock_);
  // Whether the bank was made by in_files(), so that renew() and begin_file() may be called.
  bool has_files() const { return !blocks_.empty(); }

  // A host mapping of the caller's (a shared file, a part of another bank). `release` runs once, in the
  // destructor. A guest cannot write a read-only one, whatever its page tables say. `part`: the file behind it.
  // `source`: loads its pages, until `release` runs; null: all are present.
  static std::shared_ptr<Bank> adopt(Gpa base, std::span<std::byte> host, std::function<void()> release,
                                     bool read_only = false, FilePart part = {}, PageSource* source = nullptr);
  // A part of a bank, which outlives it.
  static std::shared_ptr<Bank> part_of(const Bank&, Gpa start, Gpa end, bool read_only);

  // The file behind a frame, and how far it goes on. Precondition: contains(gpa), and the frame is in use.
  FilePart file_at(Gpa gpa) const RAMET_EXCLUDES(files_lock_);
  // To be called before pages are read or mapped: those of [start, end) are present when this returns. Precondition:
  // within the bank.
  void bring(Gpa start, Gpa end) const;
  // The frames around `at`, inside `within`, that are present; the range is empty if `at` itself is not.
  Range there(Gpa at, Range within) const;
  // Gives block-aligned memory back to the host; it reads as zeroes then. False: the host refused.
  bool give_back(Gpa start, std::uint64_t bytes) const;

  ~Bank();
  Bank(const Bank&) = delete;
  Bank& operator=(const Bank&) = delete;

  Gpa base() const { return base_; }
  std::uint64_t size() const { return host_.size(); }
  Gpa end() const { return base_ + size(); }
  bool read_only() const { return read_only_; }
  // Whether accesses cannot fail while the bank lives. Banks that are not lasting show files, which may be truncated.
  bool lasting() const { return lasting_; }
  std::byte* host() const { return host_.data(); }
  bool contains(Gpa gpa) const { return gpa - base_ < size(); }
  // Precondition: contains(gpa).
  std::byte* at(Gpa gpa) const { return host() + (gpa - base_); }
  std::span<std::byte> from(Gpa gpa) const { return host_.subspan(gpa - base_); }

 private:
  Bank(Gpa base, std::span<std::byte> host, std::function<void()> release);
  Gpa base_;
  std::span<std::byte> host_;
  std::function<void()> release_;
  int file_ = -1;  // of memory_file(); closed by release_
  FilePart part_;  // of adopt()
  const Bank* whole_ = nullptr;  // of part_of()
  PageSource* source_ = nullptr;  // of adopt()
  // Of in_files(): the file of each block, an index. Written while no frame of the block is in use, relaxed.
  std::vector<std::atomic<std::uint32_t>> blocks_;
  mutable SharedMutex files_lock_ RAMET_ACQUIRED_AFTER(address_space_lock);  // innermost; after FramePool's
  std::vector<std::shared_ptr<const MemoryFile>> files_ RAMET_GUARDED_BY(files_lock_);
  // The blocks in each file; a file that is left without any is released.
  std::vector<std::uint32_t> blocks_of_ RAMET_GUARDED_BY(files_lock_);
  std::uint32_t newest_ RAMET_GUARDED_BY(files_lock_) = 0;
  std::uint32_t apart_ RAMET_GUARDED_BY(files_lock_) = 0;  // 0: there is none yet
  bool read_only_ = false;
  bool lasting_ = true;
};

// The parts of a VM's banks that one freeze sealed: they do not change any more, but for the accessed and dirty bits
// that the VM's own processors set in the tables. Held by every VM that stands on it.
struct Layer {
  struct Below {
    std::shared_ptr<const Layer> layer;
    bool tables = true;  // its tables are referred to as well, not its data alone
  };
  ~Layer();
  std::vector<Below> below;  // all layers that it refers to, directly or not; the last first
  std::shared_ptr<Bank> data, tables;
  std::vector<Range> data_parts;  // without those of the layers below
  Range table_part;  // with those that belong to the same bank; empty: it has no tables
  std::size_t look_at = 0;  // with so many below, a freeze drops unreferenced ones: Layers::next_layer_locked()

  // `top` and all below it, which is what a space that stands on it refers to; null: nothing.
  static std::vector<Below> from(const std::shared_ptr<const Layer>& top);
  // Adds those of `others` to `all`.
  static void join(std::vector<Below>& all, const std::vector<Below>& others);
  // Where data and tables of the layers lie, by start. The table part of an upper layer includes those of lower ones in
  // the same bank.
  struct Place {
    Gpa end;
    std::size_t layer;  // index
  };
  struct Places {
    std::map<Gpa, Place> data, tables;
  };
  static Places places(const std::vector<Below>& layers);
};

// Is told of banks that come and go: the machine, which keeps one memslot for each. It is told of the private bank and
// the table bank in pieces, see Memory::announce().
class BankObserver {
 public:
  virtual ~BankObserver() = default;
  virtual Result<> bank_added(const Bank&) = 0;
  virtual void bank_removed(const Bank&) = 0;
  // Files of the private bank have been closed: no vCPU can write them when this returns.
  virtual void files_closed() {}
};

// The guest-physical address space of one VM: banks that do not overlap. Thread-safe; a look-up takes a lock only for a
// bank that was attached: the two fixed ones (private bank and table bank) and those of layers are there from the
// start.
class Memory {
 public:
  struct Config {
    std::uint64_t data_bytes;  // private bank, rounded up to kBlockSize
    std::uint64_t table_bytes;  // table bank
    std::shared_ptr<PhysicalSpace> space = {};  // of all VMs that may share memory; null: of this one alone
    bool files = false;  // the private bank is in memory files, see Bank::in_files()
  };
  // Errors: NoMemory.
  static Result<std::unique_ptr<Memory>> create(const Config&, BankObserver* observer = nullptr);
  ~Memory();

  const Bank& data() const { return *data_; }
  Bank& data() { return *data_; }
  const Bank& tables() const { return *tables_; }
  const std::shared_ptr<Bank>& data_bank() const { return data_; }
  const std::shared_ptr<Bank>& table_bank() const { return tables_; }

  // Registers the machine and tells it of the banks there are. Once, before a vCPU runs.
  Result<> observe(BankObserver&) RAMET_EXCLUDES(lock_);
  // The machine goes first, and all its slots with it: it is not told of banks any more. No vCPU runs.
  void unobserve() { observer_ = nullptr; }

  // A bank over `host`, at an address that is free in every VM of the space. The memory must stay mapped until
  // `release` runs, when the last shared_ptr has gone: the caller's, one of each Memory to which the bank is attached,
  // and those of accesses under way. Errors: NoMemory (no address), Invalid; release has run then.
  Result<std::shared_ptr<Bank>> make_bank(std::span<std::byte> host, std::function<void()> release, FilePart part = {},
                                          PageSource* source = nullptr);
  // The machine knows the bank, which other VMs may have as well, from now on until it is detached as often as
  // attached. Errors: NoMemory (the machine has no slot).
  Result<> attach(const std::shared_ptr<Bank>&) RAMET_EXCLUDES(attaching_, lock_);
  void detach(const std::shared_ptr<Bank>&) RAMET_EXCLUDES(attaching_, lock_);
  // Both in one.
  Result<std::shared_ptr<Bank>> add(std::span<std::byte> host, std::function<void()> release)
      RAMET_EXCLUDES(attaching_, lock_);
  void remove(const std::shared_ptr<Bank>& bank) RAMET_EXCLUDES(attaching_, lock_) { detach(bank); }

  // Makes this VM stand on a layer and all below it: data read-only, tables in a copy of its own. Once, before a vCPU
  // runs; the layers live as long as the Memory. Errors: NoMemory (no slot, no host memory).
  Result<> inherit(std::shared_ptr<const Layer>);
  const std::shared_ptr<const Layer>& layer() const { return layer_; }
  // Whether a data frame belongs to a layer.
  bool inherited(Gpa gpa) const { return find(inherited_data_, gpa) != nullptr; }
  // To be called before memory of a layer is looked at: it is there when this returns. Other frames always are.
  void bring(Gpa gpa, std::uint64_t bytes) const {
    if (const Bank* bank = find(inherited_data_, gpa)) bank->bring(gpa, gpa + bytes);
  }
  // Tlb::exec_sync() for a machine whose guests fetch by the host's caches, see arch/exec_sync.hpp. Of pages that are
  // not there yet the host's kernel does it, when the first fetch has brought them.
  void exec_sync(Gpa first, std::uint64_t bytes) const;
  // Host address of a page table of a layer, as this VM sees it; nullptr if it is none.
  std::byte* inherited_table(Gpa gpa) const {
    const Bank* bank = find(inherited_tables_, gpa);
    return bank ? bank->at(gpa) : nullptr;
  }

  // Tells the machine that the guest is about to use [start, end) of the private bank or the table bank for the first
  // time; block-aligned, never overlapping. A machine keeps books for each page of a slot (10 bytes on a host with
  // shadow paging), so it hears of these banks piece by piece: a start, and an idle guest, cost what is used and not
  // what may be. The first kFirstPiece bytes are known from the beginning. Errors: NoMemory (the machine has no slot).
  Result<> announce(const Bank&, Gpa start, Gpa end) RAMET_EXCLUDES(lock_);
  static constexpr std::uint64_t kFirstPiece = 8ull << 20;

  // Tells the machine that a freeze has closed files.
  void files_closed() {
    if (observer_) observer_->files_closed();
  }

  // Host memory from a guest-physical address to the end of its bank; empty if no bank holds it. The next bank may
  // begin right there, but lies elsewhere in the host.
  std::span<std::byte> host_range(Gpa gpa) const RAMET_EXCLUDES(lock_);
  std::byte* host(Gpa gpa) const { return host_range(gpa).data(); }
  // The bank that holds gpa, kept alive by the result; null if none. Empty deleter for the fixed banks.
  std::shared_ptr<Bank> bank_of(Gpa gpa) const RAMET_EXCLUDES(lock_);

  // Bases in the first VM of a PhysicalSpace; those of other VMs lie above. Below kTableBase the machine has its own.
  static constexpr Gpa kTableBase = kBlockSize;  // the table bank lies first
  static constexpr Gpa kDataBase = 0x1'0000'0000;  // 4 GiB: the private bank
  static constexpr Gpa kAddedBase = 0x40'0000'0000;  // 256 GiB: shared files, later layers and pin banks
 private:
  Memory() = default;
  // Of layers, by ascending base: they change only in inherit().
  using Banks = std::vector<std::shared_ptr<Bank>>;
  static const Bank* find(const Banks& banks, Gpa gpa) {
    const auto after = std::ranges::upper_bound(banks, gpa, {},
                                                [](const std::shared_ptr<Bank>& bank) { return bank->base(); });
    return after != banks.begin() && after[-1]->contains(gpa) ? after[-1].get() : nullptr;
  }
  Banks added() const RAMET_REQUIRES_SHARED(lock_);
  std::shared_ptr<PhysicalSpace> space_;
  std::shared_ptr<Bank> data_, tables_;
  std::shared_ptr<const Layer> layer_;
  Banks inherited_data_, inherited_tables_;
  BankObserver* observer_ = nullptr;
  // Held by attach() and detach(), while they tell the observer as well. A batch detaches when the address-space lock
  // is free, but attach() is called with it.
  Mutex attaching_ RAMET_ACQUIRED_AFTER(address_space_lock) RAMET_ACQUIRED_BEFORE(lock_);
  // Innermost; after FramePool's. Never held while the observer is called.
  mutable SharedMutex lock_ RAMET_ACQUIRED_AFTER(address_space_lock);
  struct Added {
    std::shared_ptr<Bank> bank;
    unsigned times;
  };
  // The place of a bank with that base, or where one would go.
  std::vector<Added>::iterator place_of(Gpa base) RAMET_REQUIRES(lock_) {
    return std::ranges::lower_bound(added_, base, {}, [](const Added& a) { return a.bank->base(); });
  }
  std::vector<Added> added_ RAMET_GUARDED_BY(lock_);  // by ascending base
  std::vector<std::shared_ptr<Bank>> pieces_ RAMET_GUARDED_BY(lock_);  // of the two fixed banks
};

}  // namespace ramet::mm
