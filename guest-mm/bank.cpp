// Banks and the guest-physical address space they form.
#include "guest-mm/bank.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <mutex>

namespace ramet::mm {

Bank::Bank(Gpa base, std::span<std::byte> host, std::function<void()> release)
    : base_(base), host_(host), release_(std::move(release)) {}

Bank::~Bank() {
  if (release_) release_();
}

Result<std::shared_ptr<Bank>> Bank::anonymous(Gpa base, std::uint64_t size) {
  if (size == 0 || !is_aligned(size, kBlockSize) || !is_aligned(base, kBlockSize)) return fail(Error::Invalid);
  // One block too much, so that an aligned start lies inside; the rest is given back.
  const std::uint64_t reserved = size + kBlockSize;
  void* raw = ::mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return fail(Error::NoMemory);
  auto* start = static_cast<std::byte*>(raw);
  const std::uint64_t head = align_up(reinterpret_cast<std::uintptr_t>(raw), kBlockSize) -
                             reinterpret_cast<std::uintptr_t>(raw);
  if (head) ::munmap(start, head);
  ::munmap(start + head + size, kBlockSize - head);
  auto* host = start + head;
  // Whole blocks are asked for where they are used (FramePool); without this a host that gives huge pages
  // to everybody would spend 2 MiB on the first small frame. Hosts without huge pages refuse: no matter.
  (void)::madvise(host, size, MADV_NOHUGEPAGE);
  // A core dump of the VMM is not to hold the guest's memory.
  (void)::madvise(host, size, MADV_DONTDUMP);
  return std::shared_ptr<Bank>(new Bank(base, {host, size}, [host, size] { ::munmap(host, size); }));
}

std::shared_ptr<Bank> Bank::adopt(Gpa base, std::span<std::byte> host, std::function<void()> release) {
  return std::shared_ptr<Bank>(new Bank(base, host, std::move(release)));
}

Result<std::unique_ptr<Memory>> Memory::create(const Config& config, BankObserver* observer) {
  const std::uint64_t data_bytes = align_up(config.data_bytes, kBlockSize);
  const std::uint64_t table_bytes = align_up(config.table_bytes, kBlockSize);
  if (config.data_bytes > kAddedBase - kDataBase || config.table_bytes > kDataBase - kTableBase) {
    return fail(Error::NoMemory);
  }
  auto tables = Bank::anonymous(kTableBase, table_bytes);
  if (!tables) return fail(tables.error());
  auto data = Bank::anonymous(kDataBase, data_bytes);
  if (!data) return fail(data.error());
  std::unique_ptr<Memory> memory(new Memory);
  memory->tables_ = std::move(*tables);
  memory->data_ = std::move(*data);
  for (const auto& bank : {memory->tables_, memory->data_}) {
    const std::uint64_t known = std::min(bank->size(), kFirstPiece);
    memory->pieces_.push_back(Bank::adopt(bank->base(), {bank->host(), known}, {}));
  }
  if (observer) {
    if (auto told = memory->observe(*observer); !told) return fail(told.error());
  }
  return memory;
}

Memory::~Memory() {
  if (!observer_) return;
  for (const auto& bank : added_) observer_->bank_removed(*bank);
  for (const auto& piece : pieces_) observer_->bank_removed(*piece);
}

Result<> Memory::observe(BankObserver& observer) {
  std::vector<std::shared_ptr<Bank>> told;
  {
    std::shared_lock guard(lock_);
    told = pieces_;
    told.insert(told.end(), added_.begin(), added_.end());
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
  if (observer_) {
    if (auto told = observer_->bank_added(*piece); !told) return told;
  }
  std::unique_lock guard(lock_);
  pieces_.push_back(std::move(piece));
  return {};
}

Result<std::shared_ptr<Bank>> Memory::add(std::span<std::byte> host, std::function<void()> release) {
  if (host.empty() || !is_aligned(host.size(), kPageSize)) return fail(Error::Invalid);
  std::shared_ptr<Bank> bank;
  {
    std::unique_lock guard(lock_);
    Gpa base = kAddedBase;  // first fit: banks are few
    auto place = added_.begin();
    for (; place != added_.end() && (*place)->base() - base < host.size(); ++place) {
      base = align_up((*place)->end(), kBlockSize);
    }
    if (host.size() > kLimit - base) return fail(Error::NoMemory);
    bank = Bank::adopt(base, host, std::move(release));
    added_.insert(place, bank);
  }
  if (observer_) {
    if (auto told = observer_->bank_added(*bank); !told) {
      std::unique_lock guard(lock_);
      std::erase(added_, bank);
      return fail(told.error());
    }
  }
  return bank;
}

void Memory::remove(const std::shared_ptr<Bank>& bank) {
  // First the machine forgets it, then the address may be given out again.
  if (observer_) observer_->bank_removed(*bank);
  std::unique_lock guard(lock_);
  std::erase(added_, bank);
}

std::byte* Memory::host(Gpa gpa) const {
  if (data_->contains(gpa)) return data_->at(gpa);
  if (tables_->contains(gpa)) return tables_->at(gpa);
  std::shared_lock guard(lock_);
  for (const auto& bank : added_) {
    if (bank->contains(gpa)) return bank->at(gpa);
  }
  return nullptr;
}

std::shared_ptr<Bank> Memory::bank_of(Gpa gpa) const {
  // The fixed banks live as long as the Memory: no count to keep, and none to bounce between threads.
  if (data_->contains(gpa)) return {std::shared_ptr<Bank>(), data_.get()};
  if (tables_->contains(gpa)) return {std::shared_ptr<Bank>(), tables_.get()};
  std::shared_lock guard(lock_);
  for (const auto& bank : added_) {
    if (bank->contains(gpa)) return bank;
  }
  return nullptr;
}

}  // namespace ramet::mm
