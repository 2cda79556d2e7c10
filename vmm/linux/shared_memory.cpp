#include "vmm/linux/shared_memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>

#include "guest-mm/host_memory.hpp"
namespace ramet::vmm {

mm::Result<std::shared_ptr<mm::Backing>> SharedMemory::create(std::uint64_t length, std::shared_ptr<void> charge,
                                                              mm::Memory& memory) {
  length = mm::align_up(length, mm::kPageSize);
  void* host = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (host == MAP_FAILED) return mm::fail(mm::Error::NoMemory);
  auto bank = memory.make_bank({static_cast<std::byte*>(host), length},
                               [host, length, charge = std::move(charge)] { ::munmap(host, length); });
  if (!bank) return mm::fail(bank.error());
  static std::atomic<std::uint64_t> inodes{1};
  return std::shared_ptr<mm::Backing>(new SharedMemory(std::move(*bank), inodes.fetch_add(1, std::memory_order_relaxed)));
}

mm::Result<> SharedMemory::read(std::uint64_t offset, std::span<std::byte> dst) {
  const std::uint64_t there = offset < size() ? std::min<std::uint64_t>(dst.size(), size() - offset) : 0;
  if (auto copied = mm::copy_guarded(dst.data(), bank_->host() + offset, there); !copied) return copied;
  std::ranges::fill(dst.subspan(there), std::byte{0});
  return {};
}

}  // namespace ramet::vmm
