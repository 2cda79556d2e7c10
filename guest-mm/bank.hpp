// Banks: contiguous host mappings that frames come from; each is a KVM memslot, or a few.
// Memory: the list of a VM's banks, and the translation from guest-physical to host addresses.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <shared_mutex>
#include <span>
#include <vector>

#include "guest-mm/types.hpp"

namespace ramet::mm {

class Bank {
 public:
  // Private zero-filled host memory, taken from the host as it is touched (MAP_NORESERVE).
  // base and size are multiples of kBlockSize; the host address is kBlockSize-aligned as well, so that
  // a guest block can be a host huge page. Errors: NoMemory.
  static Result<std::shared_ptr<Bank>> anonymous(Gpa base, std::uint64_t size);

  // A host mapping that somebody else made (a shared file). `release` runs once, in the destructor.
  static std::shared_ptr<Bank> adopt(Gpa base, std::span<std::byte> host, std::function<void()> release);

  ~Bank();
  Bank(const Bank&) = delete;
  Bank& operator=(const Bank&) = delete;

  Gpa base() const { return base_; }
  std::uint64_t size() const { return host_.size(); }
  Gpa end() const { return base_ + size(); }
  std::byte* host() const { return host_.data(); }
  bool contains(Gpa gpa) const { return gpa - base_ < size(); }
  // Precondition: contains(gpa).
  std::byte* at(Gpa gpa) const { return host() + (gpa - base_); }

 private:
  Bank(Gpa base, std::span<std::byte> host, std::function<void()> release);
  Gpa base_;
  std::span<std::byte> host_;
  std::function<void()> release_;
};

// Who must know of banks that come and go: the machine, which keeps one memslot for each it is told of. Of the
// private bank and the table bank it is told in pieces, see Memory::announce().
class BankObserver {
 public:
  virtual ~BankObserver() = default;
  virtual Result<> bank_added(const Bank&) = 0;
  virtual void bank_removed(const Bank&) = 0;
};

// The guest-physical address space of one VM. Thread-safe; banks are few, look-ups take a shared lock
// only when the bank is not one of the two fixed ones (private bank and table bank).
class Memory {
 public:
  struct Config {
    std::uint64_t data_bytes;   // private bank: the VM's --memory, rounded up to kBlockSize
    std::uint64_t table_bytes;  // table bank
  };
  // Errors: NoMemory.
  static Result<std::unique_ptr<Memory>> create(const Config&, BankObserver* observer = nullptr);
  ~Memory();

  const Bank& data() const { return *data_; }
  const Bank& tables() const { return *tables_; }

  // Registers the machine and tells it of the banks there are. Once, before a vCPU runs.
  Result<> observe(BankObserver&);
  // The machine goes first, and all its slots with it: it is not told of banks any more. No vCPU runs.
  void unobserve() { observer_ = nullptr; }

  // Adds a bank of `host`'s size at a free guest-physical address. Its memory must stay mapped until
  // `release` runs, which happens when the last shared_ptr has gone: the Memory's own (dropped by
  // remove()) and those of users in the middle of an access. Errors: NoMemory (no address or no slot).
  Result<std::shared_ptr<Bank>> add(std::span<std::byte> host, std::function<void()> release);
  void remove(const std::shared_ptr<Bank>&);

  // The guest is about to use [start, end) of the private bank or the table bank for the first time; block-aligned,
  // never overlapping. A machine keeps books for each page of a slot (10 bytes on a host with shadow paging),
  // so it hears of these banks piece by piece: a start, and an idle guest, cost what is used and not what may be.
  // The first kFirstPiece bytes are known from the beginning. Errors: NoMemory (the machine has no slot).
  Result<> announce(const Bank&, Gpa start, Gpa end);
  static constexpr std::uint64_t kFirstPiece = 8ull << 20;

  // Host address of a guest-physical one; nullptr if no bank holds it.
  std::byte* host(Gpa gpa) const;
  // The bank that holds gpa, kept alive by the result; null if none. Empty deleter for the fixed banks.
  std::shared_ptr<Bank> bank_of(Gpa gpa) const;

  static constexpr Gpa kTableBase = 0;                  // the table bank lies first
  static constexpr Gpa kDataBase = 0x1'0000'0000;       // 4 GiB: the private bank
  static constexpr Gpa kAddedBase = 0x40'0000'0000;     // 256 GiB: shared files, later layers and pin banks
  static constexpr Gpa kLimit = 0x100'0000'0000;        // 2^40: what arm64 hosts are sure to have

 private:
  Memory() = default;
  std::shared_ptr<Bank> data_, tables_;
  BankObserver* observer_ = nullptr;
  mutable std::shared_mutex lock_;            // guards what follows; never held while the observer is called
  std::vector<std::shared_ptr<Bank>> added_;  // by ascending base
  std::vector<std::shared_ptr<Bank>> pieces_; // of the two fixed banks
};

}  // namespace ramet::mm
