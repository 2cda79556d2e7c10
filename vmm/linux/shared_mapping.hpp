// Memory that guests share: host memory behind a region with MAP_SHARED, one bank at one address in every VM that maps it.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>

#include "guest-mm/backing.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {

// A host mapping, unmapped with its last user.
class HostMapping {
 public:
  // `keep` lives as long (the file, the memory's charge).
  HostMapping(std::span<std::byte> bytes, std::shared_ptr<void> keep) : bytes_(bytes), keep_(std::move(keep)) {}
  ~HostMapping();
  HostMapping(const HostMapping&) = delete;
  HostMapping& operator=(const HostMapping&) = delete;
  std::span<std::byte> bytes() const { return bytes_; }

 private:
  std::span<std::byte> bytes_;
  std::shared_ptr<void> keep_;
};

// A backing that can be mapped shared, by several address spaces at once.
class SharedMapping : public mm::Backing {
 public:
  Shared shared() const override { return {bank_, bank_offset_}; }
  mm::Result<> sync(std::uint64_t offset, std::uint64_t length, bool wait) override;

 protected:
  // Makes it a bank for all VMs that can share memory with this one: its first byte is the object's byte `offset`. Once.
  mm::Result<> share(std::shared_ptr<HostMapping>, std::uint64_t offset, mm::Memory&);
  const std::shared_ptr<HostMapping>& host() const { return host_; }
  std::uint64_t bank_offset() const { return bank_offset_; }

 private:
  std::shared_ptr<HostMapping> host_;  // null: mapped privately only
  std::shared_ptr<mm::Bank> bank_;
  std::uint64_t bank_offset_ = 0;
};

// Anonymous shared memory: that of mmap with MAP_SHARED and MAP_ANONYMOUS.
class SharedMemory final : public SharedMapping {
 public:
  // `charge` is held as long as the memory. Errors: NoMemory.
  static mm::Result<std::shared_ptr<mm::Backing>> create(std::uint64_t length, std::shared_ptr<void> charge, mm::Memory&);

  std::uint64_t size() const override { return host()->bytes().size(); }
  mm::Result<> read(std::uint64_t offset, std::span<std::byte> dst) override;
  Identity identity() const override { return {0, 1, inode_, "/dev/zero (deleted)"}; }

  explicit SharedMemory(std::uint64_t inode) : inode_(inode) {}

 private:
  const std::uint64_t inode_;
};

}  // namespace ramet::vmm
