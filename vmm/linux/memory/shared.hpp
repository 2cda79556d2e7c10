// Shared anonymous memory, of mmap(2) with MAP_SHARED and MAP_ANONYMOUS: a bank of its own, which every VM of the
// family can map.
#pragma once

#include <memory>

#include "guest-mm/backing.hpp"
#include "vmm/linux/memory/host_mapping.hpp"

namespace ramet::vmm {

class SharedMemory final : public mm::Backing {
 public:
  // Holds its arguments as long as it lives. `file`: what the host mapping maps; null: it is anonymous. Errors:
  // NoMemory.
  static mm::Result<std::shared_ptr<mm::Backing>> create(const std::shared_ptr<HostMapping>&,
                                                         std::shared_ptr<const mm::MemoryFile> file,
                                                         std::shared_ptr<void> charge, mm::Memory&);

  std::uint64_t size() const override { return bank_->size(); }
  mm::Result<> read(std::uint64_t offset, std::span<std::byte> dst) override;
  Shared shared() const override { return {bank_, 0}; }
  void residency(std::uint64_t offset, std::span<std::uint8_t> out) const override;
  Identity identity() const override { return {0, 1, inode_, "/dev/zero (deleted)"}; }

 private:
  SharedMemory(std::shared_ptr<mm::Bank> bank, std::uint64_t inode) : bank_(std::move(bank)), inode_(inode) {}
  const std::shared_ptr<mm::Bank> bank_;
  const std::uint64_t inode_;  // tells them apart in /proc/self/maps
};

}  // namespace ramet::vmm
