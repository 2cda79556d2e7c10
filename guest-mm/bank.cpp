// Banks and the guest-physical address space they form.
#include "guest-mm/bank.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <map>

#include "arch/exec_sync.hpp"

namespace ramet::mm {

Bank::Bank(Gpa base, std::span<std::byte> host, std::function<void()> release)
    : base_(base), host_(host), release_(std::move(release)) {}

Bank::~Bank() {
  if (release_) release_();
}

namespace {

// The host mapping and the file of a bank, given back with the bank, or when that could not be made.
struct Mapped {
  Mapped() = default;
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  ~Mapped() {
    if (!host.empty()) ::munmap(host.data(), host.size());
    if (file >= 0) ::close(file);
  }
  std::span<std::byte> host;
  int file = -1;
};

// A block-aligned range of the host's addresses; nothing if there is none.
std::shared_ptr<Mapped> reserve_aligned(std::uint64_t size) {
  auto mapped = std::make_shared<Mapped>();
  // One block too much, so that an aligned start lies inside; the rest is given back.
  const std::uint64_t reserved = size + kBlockSize;
  void* raw = ::mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  auto* start = static_cast<std::byte*>(raw);
  const std::uint64_t head = align_up(reinterpret_cast<std::uintptr_t>(raw), kBlockSize) -
                             reinterpret_cast<std::uintptr_t>(raw);
  if (head) ::munmap(start, head);
  ::munmap(start + head + size, kBlockSize - head);
  mapped->host = {start + head, size};
  return mapped;
}

}  // namespace

Result<std::shared_ptr<Bank>> Bank::anonymous(Gpa base, std::uint64_t size) {
  if (size == 0 || !is_aligned(size, kBlockSize) || !is_aligned(base, kBlockSize)) return fail(Error::Invalid);
  const auto mapped = reserve_aligned(size);
  if (!mapped) return fail(Error::NoMemory);
  // FramePool asks for huge pages where it gives out whole blocks; without this a host that gives them to every mapping
  // would spend 2 MiB on the first small frame. Hosts without huge pages refuse: no matter.
  (void)::madvise(mapped->host.data(), size, MADV_NOHUGEPAGE);
  // A core dump of the VMM is not to hold the guest's memory.
  (void)::madvise(mapped->host.data(), size, MADV_DONTDUMP);
  return std::shared_ptr<Bank>(new Bank(base, mapped->host, [mapped] {}));
}

Result<std::shared_ptr<Bank>> Bank::memory_file(Gpa base, std::uint64_t size) {
  if (size == 0 || !is_aligned(size, kBlockSize) || !is_aligned(base, kBlockSize)) return fail(Error::Invalid);
  const auto mapped = reserve_aligned(size);
  if (!mapped) return fail(Error::NoMemory);
  mapped->file = ::memfd_create("ramet-tables", MFD_CLOEXEC);
  if (mapped->file < 0 || ::ftruncate(mapped->file, static_cast<off_t>(size)) != 0 ||
      ::mmap(mapped->host.data(), size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, mapped->file, 0) ==
          MAP_FAILED) {
    return fail(Error::NoMemory);
  }
  (void)::madvise(mapped->host.data(), size, MADV_DONTDUMP);
  std::shared_ptr<Bank> bank(new Bank(base, mapped->host, [mapped] {}));
  bank->file_ = mapped->file;
  return bank;
}

Result<std::shared_ptr<Bank>> Bank::in_files(Gpa base, std::uint64_t size) {
  if (size == 0 || !is_aligned(size, kBlockSize) || !is_aligned(base, kBlockSize)) return fail(Error::Invalid);
  const auto mapped = reserve_aligned(size);
  if (!mapped) return fail(Error::NoMemory);
  std::shared_ptr<Bank> bank(new Bank(base, mapped->host, [mapped] {}));
  bank->blocks_ = std::vector<std::atomic<std::uint32_t>>(size / kBlockSize);
  {
    LockGuard guard(bank->files_lock_);
    bank->files_.push_back(nullptr);  // number 0: no file yet
    bank->blocks_of_.push_back(static_cast<std::uint32_t>(size / kBlockSize));
  }
  if (auto begun = bank->begin_file(); !begun) return fail(begun.error());
  if (auto renewed = bank->renew(base, bank->end(), false); !renewed) return fail(renewed.error());
  return bank;
}

Result<> Bank::begin_file() {
  auto file = MemoryFile::create(size());
  if (!file) return fail(file.error());
  LockGuard guard(files_lock_);
  // Children map the file that is closed here, read-only: its second descriptor is made while a freeze can still fail.
  if (newest_ != 0 && blocks_of_[newest_] != 0) {
    if (auto other = files_[newest_]->read_only(); !other) return fail(other.error());
  }
  if (newest_ != 0) files_[newest_]->close();
  if (newest_ != 0 && blocks_of_[newest_] == 0) files_[newest_] = nullptr;
  newest_ = static_cast<std::uint32_t>(files_.size());
  files_.push_back(std::move(*file));
  blocks_of_.push_back(0);
  return {};
}

Result<> Bank::renew(Gpa start, Gpa end, bool apart) {
  LockGuard guard(files_lock_);
  if (apart && apart_ == 0) {
    auto file = MemoryFile::create(size());
    if (!file) return fail(file.error());
    apart_ = static_cast<std::uint32_t>(files_.size());
    files_.push_back(std::move(*file));
    blocks_of_.push_back(0);
  }
  const std::uint32_t number = apart ? apart_ : newest_;
  const std::uint64_t bytes = end - start;
  // The file mapped there until now would keep its pages, which are not read any more.
  if (blocks_[(start - base_) / kBlockSize].load(std::memory_order_relaxed) != 0 && !give_back(start, bytes))
    return fail(Error::NoMemory);
  if (::mmap(at(start), bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
             files_[number]->descriptor(), static_cast<off_t>(start - base_)) == MAP_FAILED) {
    return fail(Error::NoMemory);
  }
  (void)::madvise(at(start), bytes, MADV_DONTDUMP);
  for (std::uint64_t block = (start - base_) / kBlockSize; block < (end - base_) / kBlockSize; ++block) {
    const std::uint32_t before = blocks_[block].exchange(number, std::memory_order_relaxed);
    ++blocks_of_[number];
    if (--blocks_of_[before] == 0 && before != newest_ && before != apart_) files_[before] = nullptr;
  }
  return {};
}

std::shared_ptr<Bank> Bank::part_of(const Bank& whole, Gpa start, Gpa end, bool read_only) {
  auto part = adopt(start, {whole.at(start), end - start}, {}, read_only);
  part->whole_ = &whole;
  part->lasting_ = whole.lasting_;
  return part;
}

FilePart Bank::file_at(Gpa gpa) const {
  if (whole_) {
    FilePart part = whole_->file_at(gpa);
    part.bytes = std::min(part.bytes, end() - gpa);
    return part;
  }
  if (blocks_.empty()) {
    const std::uint64_t inside = gpa - base_;
    return {part_.file, part_.offset + inside, size() - inside};
  }
  const std::uint64_t first = (gpa - base_) / kBlockSize;
  const std::uint32_t number = blocks_[first].load(std::memory_order_relaxed);
  std::uint64_t last = first + 1;
  while (last < blocks_.size() && blocks_[last].load(std::memory_order_relaxed) == number) ++last;
  SharedLock guard(files_lock_);
  return {files_[number], gpa - base_, last * kBlockSize - (gpa - base_)};
}

void Bank::bring(Gpa start, Gpa end) const {
  if (whole_) whole_->bring(start, end);
  else if (source_) source_->bring(start - base_, end - base_);
}

Range Bank::there(Gpa at, Range within) const {
  if (whole_) return whole_->there(at, within);
  if (!source_) return within;
  const auto range = source_->there(at - base_, {within.start - base_, within.end - base_});
  return {base_ + range.start, base_ + range.end};
}

bool Bank::give_back(Gpa start, std::uint64_t bytes) const {
  // In a file a hole is punched: MADV_DONTNEED would leave the file's pages, which every mapping shows, as they are.
  return ::madvise(at(start), bytes, has_files() ? MADV_REMOVE : MADV_DONTNEED) == 0;
}

Result<std::shared_ptr<Bank>> Bank::private_copy(Gpa start, Gpa end) const {
  if (file_ < 0 || start >= end || !is_aligned(start | end, kPageSize) || !contains(start) || end > this->end())
    return fail(Error::Invalid);
  const std::uint64_t size = end - start;
  const auto mapped = std::make_shared<Mapped>();
  void* host = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file_,
                      static_cast<off_t>(start - base_));
  if (host == MAP_FAILED) return fail(Error::NoMemory);
  mapped->host = {static_cast<std::byte*>(host), size};
  (void)::madvise(host, size, MADV_DONTDUMP);
  return adopt(start, mapped->host, [mapped] {});
}

std::shared_ptr<Bank> Bank::adopt(Gpa base, std::span<std::byte> host, std::function<void()> release, bool read_only,
                                  FilePart part, PageSource* source) {
  std::shared_ptr<Bank> bank(new Bank(base, host, std::move(release)));
  bank->read_only_ = read_only;
  bank->lasting_ = false;
  bank->part_ = std::move(part);
  bank->source_ = source;
  return bank;
}

// Takes a place in the space for a bank that `make` makes there; it is given back when the bank has gone.
static Result<std::shared_ptr<Bank>> place(const std::shared_ptr<PhysicalSpace>& space, std::uint64_t size, Gpa lowest,
                                           const std::function<Result<std::shared_ptr<Bank>>(Gpa)>& make) {
  // Ends with the last shared_ptr to the bank, or when this function fails: first the bank goes, then its place.
  struct Holder {
    std::shared_ptr<PhysicalSpace> space;
    Result<Gpa> base;
    std::shared_ptr<Bank> bank;
    ~Holder() {
      bank.reset();
      if (base) space->give_back(*base);
    }
  };
  const auto holder = std::make_shared<Holder>(space, fail(Error::NoMemory), nullptr);
  holder->base = space->take(size, lowest);
  if (!holder->base) return fail(holder->base.error());
  auto bank = make(*holder->base);
  if (!bank) return bank;
  holder->bank = std::move(*bank);
  return std::shared_ptr<Bank>(holder, holder->bank.get());
}

Result<std::unique_ptr<Memory>> Memory::create(const Config& config, BankObserver* observer) {
  const std::uint64_t data_bytes = align_up(config.data_bytes, kBlockSize);
  const std::uint64_t table_bytes = align_up(config.table_bytes, kBlockSize);
  if (config.data_bytes > kAddedBase - kDataBase || config.table_bytes > kDataBase - kTableBase) {
    return fail(Error::NoMemory);
  }
  const auto space = config.space ? config.space : std::make_shared<PhysicalSpace>();
  auto tables = place(space, table_bytes, kTableBase, [&](Gpa base) { return Bank::memory_file(base, table_bytes); });
  if (!tables) return fail(tables.error());
  auto data = place(space, data_bytes, kDataBase, [&](Gpa base) {
    return config.files ? Bank::in_files(base, data_bytes) : Bank::anonymous(base, data_bytes);
  });
  if (!data) return fail(data.error());
  std::unique_ptr<Memory> memory(new Memory);
  memory->space_ = space;
  memory->tables_ = std::move(*tables);
  memory->data_ = std::move(*data);
  {
    LockGuard guard(memory->lock_);
    for (const auto& bank : {memory->tables_, memory->data_}) {
      const std::uint64_t known = std::min(bank->size(), kFirstPiece);
      memory->pieces_.push_back(Bank::adopt(bank->base(), {bank->host(), known}, {}));
    }
  }
  if (observer) {
    if (auto told = memory->observe(*observer); !told) return fail(told.error());
  }
  return memory;
}

Memory::Banks Memory::added() const {
  Banks banks;
  for (const Added& a : added_) banks.push_back(a.bank);
  return banks;
}

Memory::~Memory() {
  if (!observer_) return;
  for (const auto& banks : {added(), inherited_data_, inherited_tables_}) {
    for (const auto& bank : banks) observer_->bank_removed(*bank);
  }
  for (const auto& piece : pieces_) observer_->bank_removed(*piece);
}

Result<> Memory::observe(BankObserver& observer) {
  std::vector<std::shared_ptr<Bank>> told;
  {
    SharedLock guard(lock_);
    told = pieces_;
    for (const auto& banks : {added(), inherited_data_, inherited_tables_})
      told.insert(told.end(), banks.begin(), banks.end());
  }
  for (std::size_t i = 0; i < told.size(); ++i) {
    if (auto added = observer.bank_added(*told[i]); !added) {
      while (i > 0) observer.bank_removed(*told[--i]);
      return added;
    }
  }
  observer_ = &observer;
  return {};
}

Result<> Memory::announce(const Bank& bank, Gpa start, Gpa end) {
  auto piece = Bank::adopt(start, {bank.at(start), end - start}, {});
  {
    LockGuard guard(lock_);
    // One for each fixed bank, as each announces one piece at a time: push_back() does not fail after bank_added().
    pieces_.reserve(pieces_.size() + 2);
  }
  if (observer_) {
    if (auto told = observer_->bank_added(*piece); !told) return told;
  }
  LockGuard guard(lock_);
  pieces_.push_back(std::move(piece));
  return {};
}

Result<std::shared_ptr<Bank>> Memory::make_bank(std::span<std::byte> host, std::function<void()> release, FilePart part,
                                                PageSource* source) {
  if (host.empty() || !is_aligned(host.size(), kPageSize)) return fail(Error::Invalid);
  return place(space_, host.size(), kAddedBase, [&](Gpa base) -> Result<std::shared_ptr<Bank>> {
    return Bank::adopt(base, host, release, false, part, source);
  });
}

Result<> Memory::attach(const std::shared_ptr<Bank>& bank) {
  LockGuard one_at_a_time(attaching_);
  {
    LockGuard guard(lock_);
    const auto at = place_of(bank->base());
    if (at != added_.end() && at->bank == bank) {
      ++at->times;
      return {};
    }
    added_.insert(at, {bank, 1});
  }
  if (observer_) {
    if (auto told = observer_->bank_added(*bank); !told) {
      LockGuard guard(lock_);
      added_.erase(place_of(bank->base()));
      return told;
    }
  }
  return {};
}

void Memory::detach(const std::shared_ptr<Bank>& bank) {
  LockGuard one_at_a_time(attaching_);
  {
    LockGuard guard(lock_);
    const auto found = place_of(bank->base());
    if (found == added_.end() || found->bank != bank || --found->times > 0) return;
  }
  // First the machine forgets it, then the address may be given out again.
  if (observer_) observer_->bank_removed(*bank);
  LockGuard guard(lock_);
  added_.erase(place_of(bank->base()));
}

Result<std::shared_ptr<Bank>> Memory::add(std::span<std::byte> host, std::function<void()> release) {
  auto bank = make_bank(host, std::move(release));
  if (!bank) return bank;
  if (auto attached = attach(*bank); !attached) return fail(attached.error());
  return bank;
}

// Layers below that end with this one are destroyed in a loop: nested, the destructors of a long chain would need more
// stack than a thread has.
Layer::~Layer() {
  thread_local std::vector<Below>* to_end = nullptr;
  if (to_end) {
    std::ranges::move(below, std::back_inserter(*to_end));
    return;
  }
  to_end = &below;
  while (!below.empty()) {
    const Below ending = std::move(below.back());
    below.pop_back();
  }
  to_end = nullptr;
}

std::vector<Layer::Below> Layer::from(const std::shared_ptr<const Layer>& top) {
  std::vector<Below> all;
  if (!top) return all;
  all.reserve(1 + top->below.size());
  all.push_back({.layer = top});
  all.insert(all.end(), top->below.begin(), top->below.end());
  return all;
}

void Layer::join(std::vector<Below>& all, const std::vector<Below>& others) {
  std::map<std::shared_ptr<const Layer>, std::size_t> known;
  for (std::size_t i = 0; i < all.size(); ++i) known.emplace(all[i].layer, i);
  for (const Below& other : others) {
    const auto [at, fresh] = known.emplace(other.layer, all.size());
    if (fresh) all.push_back(other);
    else all[at->second].tables |= other.tables;
  }
}

Layer::Places Layer::places(const std::vector<Below>& layers) {
  Places all;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const Layer& l = *layers[i].layer;
    for (const Range& part : l.data_parts) all.data.emplace(part.start, Place{part.end, i});
    if (!layers[i].tables || l.table_part.empty()) continue;  // what comes from a file has no tables
    Place& upper = all.tables.emplace(l.table_part.start, Place{l.table_part.end, i}).first->second;
    if (upper.end < l.table_part.end) upper = {l.table_part.end, i};
  }
  return all;
}

Result<> Memory::inherit(std::shared_ptr<const Layer> layer) {
  const auto layers = Layer::from(layer);
  auto [data, tables] = Layer::places(layers);
  const auto layer_of = [&](const Layer::Place& place) -> const Layer& { return *layers[place.layer].layer; };
  // Parts of one bank that touch each other, closed by one freeze after another, become one.
  for (auto i = data.begin(); i != data.end();) {
    const auto next = std::next(i);
    if (next != data.end() && i->second.end == next->first && layer_of(i->second).data == layer_of(next->second).data) {
      i->second.end = next->second.end;
      data.erase(next);
    } else {
      i = next;
    }
  }
  Banks told;
  const auto give_up = [&](Error error) {
    for (const auto& bank : told)
      if (observer_) observer_->bank_removed(*bank);
    inherited_data_.clear();
    inherited_tables_.clear();
    return fail(error);
  };
  for (const auto& [start, place] : data)
    inherited_data_.push_back(Bank::part_of(*layer_of(place).data, start, place.end, true));
  for (const auto& [start, place] : tables) {
    auto copy = layer_of(place).tables->private_copy(start, place.end);
    if (!copy) return give_up(copy.error());
    inherited_tables_.push_back(std::move(*copy));
  }
  layer_ = std::move(layer);
  if (!observer_) return {};
  for (const auto& banks : {inherited_data_, inherited_tables_}) {
    for (const auto& bank : banks) {
      if (auto added = observer_->bank_added(*bank); !added) return give_up(added.error());
      told.push_back(bank);
    }
  }
  return {};
}

std::span<std::byte> Memory::host_range(Gpa gpa) const {
  const auto bank = bank_of(gpa);
  return bank ? bank->from(gpa) : std::span<std::byte>();
}

void Memory::exec_sync(Gpa first, std::uint64_t bytes) const {
  const auto bank = bank_of(first);
  if (!bank) return;
  const auto there = bank->there(first, {first, std::min(first + bytes, bank->end())});
  if (there.start < there.end) arch::exec_sync(bank->at(there.start), there.end - there.start);
}

std::shared_ptr<Bank> Memory::bank_of(Gpa gpa) const {
  // The fixed banks live as long as the Memory: no count to keep, and none to bounce between threads.
  if (data_->contains(gpa)) return {std::shared_ptr<Bank>(), data_.get()};
  if (tables_->contains(gpa)) return {std::shared_ptr<Bank>(), tables_.get()};
  for (const Banks* banks : {&inherited_data_, &inherited_tables_}) {
    if (const Bank* bank = find(*banks, gpa)) return {std::shared_ptr<Bank>(), const_cast<Bank*>(bank)};
  }
  SharedLock guard(lock_);
  const auto after = std::ranges::upper_bound(added_, gpa, {}, [](const Added& a) { return a.bank->base(); });
  return after != added_.begin() && after[-1].bank->contains(gpa) ? after[-1].bank : nullptr;
}

}  // namespace ramet::mm
