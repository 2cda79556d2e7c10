#include "vmm/linux/shared_mapping.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>

namespace ramet::vmm {

HostMapping::~HostMapping() { ::munmap(bytes_.data(), bytes_.size()); }

mm::Result<> SharedMapping::share(std::shared_ptr<HostMapping> host, std::uint64_t offset, mm::Memory& memory) {
  // Only the bank's last user may unmap: the guest's memory may be in the middle of an access.
  auto bank = memory.make_bank(host->bytes(), [host] {});
  if (!bank) return mm::fail(bank.error());
  host_ = std::move(host);
  bank_ = std::move(*bank);
  bank_offset_ = offset;
  return {};
}

mm::Result<> SharedMapping::sync(std::uint64_t offset, std::uint64_t length, bool wait) {
  if (!bank_) return {};
  if (offset < bank_offset_ || offset - bank_offset_ >= bank_->size()) return mm::fail(mm::Error::Invalid);
  std::uint64_t start = mm::align_down(offset - bank_offset_, mm::kPageSize);
  length = std::min(length, bank_->size() - start);
  if (::msync(bank_->host() + start, length, wait ? MS_SYNC : MS_ASYNC) != 0) return mm::fail(mm::Error::Io);
  return {};
}

mm::Result<std::shared_ptr<mm::Backing>> SharedMemory::create(std::uint64_t length, std::shared_ptr<void> charge, mm::Memory& memory) {
  length = mm::align_up(length, mm::kPageSize);
  void* host = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (host == MAP_FAILED) return mm::fail(mm::Error::NoMemory);
  auto mapping = std::make_shared<HostMapping>(std::span(static_cast<std::byte*>(host), length), std::move(charge));
  static std::atomic<std::uint64_t> inodes{1};  // as /proc/self/maps tells one from another
  auto backing = std::make_shared<SharedMemory>(inodes.fetch_add(1, std::memory_order_relaxed));
  if (auto done = backing->share(std::move(mapping), 0, memory); !done) return mm::fail(done.error());
  return backing;
}

mm::Result<> SharedMemory::read(std::uint64_t offset, std::span<std::byte> dst) {
  const auto bytes = host()->bytes();
  const std::uint64_t there = offset < bytes.size() ? std::min<std::uint64_t>(dst.size(), bytes.size() - offset) : 0;
  if (there) std::memcpy(dst.data(), bytes.data() + offset, there);
  std::ranges::fill(dst.subspan(there), std::byte{0});
  return {};
}

}  // namespace ramet::vmm
