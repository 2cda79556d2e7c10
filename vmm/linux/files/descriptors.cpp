#include "vmm/linux/files/descriptors.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "guest-mm/rcu.hpp"
#include "vmm/linux/files/files.hpp"

namespace ramet::vmm {
namespace {

// So many retired entries share a grace period. Each keeps the memory of its OpenFile, but does not keep the file open.
constexpr std::size_t kMostRetired = 64;
constexpr std::size_t kFirstIndex = 64;

}  // namespace

// Holds the lock for a change, and waits for the grace period of what was retired after releasing it.
class RAMET_SCOPED_CAPABILITY Descriptors::Change {
 public:
  explicit Change(Descriptors& of) RAMET_ACQUIRE(of.lock_) : of_(of) { of_.lock_.lock(); }
  ~Change() RAMET_RELEASE() {
    std::unique_ptr<Entry> retired;
    if (of_.retired_count_ >= kMostRetired) {
      retired.swap(of_.retired_);
      of_.retired_count_ = 0;
    }
    of_.lock_.unlock();
    if (retired) mm::rcu::synchronize();
    while (retired) retired = std::move(retired->next);  // one by one: their destructors would nest
  }
  Change(const Change&) = delete;
  Change& operator=(const Change&) = delete;

 private:
  Descriptors& of_;
};

Descriptors::Descriptors() = default;

Descriptors::Descriptors(const Descriptors& parent) {
  for (Descriptor& d : parent.list()) set(std::move(d));
}

Descriptors::~Descriptors() {
  LockGuard guard(lock_);
  for (std::size_t n = 0; n < slots_.size(); ++n) retire(indices_.back()->entries[n].load(std::memory_order_relaxed));
  while (retired_) retired_ = std::move(retired_->next);
}

std::shared_ptr<OpenFile> Descriptors::get(int number) const {
  const mm::rcu::Reader reader;
  const Index* const index = index_.load(std::memory_order_acquire);
  if (!index || static_cast<unsigned>(number) >= index->entries.size()) return nullptr;
  const Entry* const entry = index->entries[static_cast<unsigned>(number)].load(std::memory_order_acquire);
  return entry ? entry->file.lock() : nullptr;
}

const Descriptors::Slot* Descriptors::open_slot(int number) const {
  const auto n = static_cast<std::size_t>(number);
  return number >= 0 && n < slots_.size() && slots_[n].file ? &slots_[n] : nullptr;
}

std::optional<bool> Descriptors::close_on_exec(int number) const {
  LockGuard guard(lock_);
  const Slot* const slot = open_slot(number);
  return slot ? std::optional(slot->close_on_exec) : std::nullopt;
}

bool Descriptors::set_close_on_exec(int number, bool close_on_exec) {
  LockGuard guard(lock_);
  if (!open_slot(number)) return false;
  slots_[static_cast<std::size_t>(number)].close_on_exec = close_on_exec;
  return true;
}

std::vector<Descriptor> Descriptors::list() const {
  LockGuard guard(lock_);
  std::vector<Descriptor> all;
  for (std::size_t n = 0; n < slots_.size(); ++n)
    if (slots_[n].file) all.push_back({static_cast<int>(n), slots_[n].file, slots_[n].close_on_exec});
  return all;
}

bool Descriptors::holds(const OpenFile& file) const {
  LockGuard guard(lock_);
  return std::ranges::any_of(slots_, [&](const Slot& slot) { return slot.file.get() == &file; });
}

void Descriptors::make_room(std::size_t size) {
  if (size <= slots_.size()) return;
  const Index* const old = indices_.empty() ? nullptr : indices_.back().get();
  if (old && size <= old->entries.size()) return slots_.resize(size);
  auto longer = std::make_unique<Index>(std::max(size, old ? 2 * old->entries.size() : kFirstIndex));
  for (std::size_t n = 0; old && n < old->entries.size(); ++n)
    longer->entries[n].store(old->entries[n].load(std::memory_order_relaxed), std::memory_order_relaxed);
  indices_.push_back(std::move(longer));
  slots_.resize(size);
  index_.store(indices_.back().get(), std::memory_order_release);  // pairs with get()
}

void Descriptors::retire(Entry* entry) {
  if (!entry) return;
  entry->next = std::move(retired_);
  retired_.reset(entry);
  ++retired_count_;
}

std::shared_ptr<OpenFile> Descriptors::replace(std::size_t number, Slot slot) {
  make_room(number + 1);
  Entry* const now = slot.file ? new Entry{slot.file, nullptr} : nullptr;
  // Pairs with get(), which may still read the index before this one: it then finds what was there before the change.
  retire(indices_.back()->entries[number].exchange(now, std::memory_order_acq_rel));
  return std::exchange(slots_[number], std::move(slot)).file;
}

std::optional<int> Descriptors::free_number(std::size_t from, std::size_t limit) {
  std::size_t n = from;
  while (n < slots_.size() && (slots_[n].file || slots_[n].reserved)) ++n;
  if (n >= limit) return std::nullopt;
  make_room(n + 1);
  return static_cast<int>(n);
}

OrErrno<int> Descriptors::install(std::shared_ptr<OpenFile> file, bool close_on_exec, std::size_t from,
                                  std::size_t limit) {
  Change change(*this);
  const auto number = free_number(from, limit);
  if (!number) return err(EMFILE);
  replace(static_cast<std::size_t>(*number), {std::move(file), close_on_exec});
  return *number;
}

OrErrno<std::array<int, 2>> Descriptors::install_pair(std::shared_ptr<OpenFile> a, std::shared_ptr<OpenFile> b,
                                                      bool close_on_exec, std::size_t limit) {
  Change change(*this);
  const auto first = free_number(0, limit);
  if (!first) return err(EMFILE);
  const auto second = free_number(static_cast<std::size_t>(*first) + 1, limit);
  if (!second) return err(EMFILE);
  replace(static_cast<std::size_t>(*first), {std::move(a), close_on_exec});
  replace(static_cast<std::size_t>(*second), {std::move(b), close_on_exec});
  return std::array{*first, *second};
}

OrErrno<int> Descriptors::reserve(std::size_t limit) {
  LockGuard guard(lock_);
  const auto number = free_number(0, limit);
  if (!number) return err(EMFILE);
  slots_[static_cast<std::size_t>(*number)].reserved = true;
  return *number;
}

void Descriptors::give_back(int reserved) {
  LockGuard guard(lock_);
  slots_[static_cast<std::size_t>(reserved)] = {};
}

OrErrno<std::shared_ptr<OpenFile>> Descriptors::duplicate(std::size_t from, std::size_t to, bool close_on_exec,
                                                          std::size_t limit) {
  Change change(*this);
  if (from >= slots_.size() || !slots_[from].file || to >= limit) return err(EBADF);
  if (to < slots_.size() && slots_[to].reserved) return err(EBUSY);
  return replace(to, {slots_[from].file, close_on_exec});
}

void Descriptors::set(Descriptor d) {
  std::shared_ptr<OpenFile> before;  // dropped after the lock
  Change change(*this);
  before = replace(static_cast<std::size_t>(d.number), {std::move(d.file), d.close_on_exec});
}

std::shared_ptr<OpenFile> Descriptors::close(int number) {
  Change change(*this);
  return open_slot(number) ? replace(static_cast<std::size_t>(number), {}) : nullptr;
}

std::vector<std::shared_ptr<OpenFile>> Descriptors::close_range(std::size_t first, std::size_t last) {
  std::vector<std::shared_ptr<OpenFile>> closed;
  Change change(*this);
  for (std::size_t n = first; n <= last && n < slots_.size(); ++n)
    if (slots_[n].file) closed.push_back(replace(n, {}));
  return closed;
}

void Descriptors::close_range_on_exec(std::size_t first, std::size_t last) {
  LockGuard guard(lock_);
  for (std::size_t n = first; n <= last && n < slots_.size(); ++n)
    if (slots_[n].file) slots_[n].close_on_exec = true;
}

std::vector<std::shared_ptr<OpenFile>> Descriptors::exec() {
  std::vector<std::shared_ptr<OpenFile>> closed;
  Change change(*this);
  for (std::size_t n = 0; n < slots_.size(); ++n)
    if (slots_[n].close_on_exec) closed.push_back(replace(n, {}));
  return closed;
}

std::vector<std::shared_ptr<OpenFile>> Descriptors::close_all() { return close_range(0, SIZE_MAX); }

}  // namespace ramet::vmm
