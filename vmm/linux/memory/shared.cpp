#include "vmm/linux/memory/shared.hpp"

#include <algorithm>
#include <atomic>

#include "guest-mm/host_memory.hpp"
namespace ramet::vmm {

mm::Result<std::shared_ptr<mm::Backing>> SharedMemory::create(const std::shared_ptr<HostMapping>& host,
                                                              std::shared_ptr<const mm::MemoryFile> file,
                                                              std::shared_ptr<void> charge, mm::Memory& memory) {
  const std::uint64_t bytes = host->bytes().size();
  auto bank = memory.make_bank(host->bytes(), [host, charge = std::move(charge)] {},
                               {.file = std::move(file), .offset = 0, .bytes = bytes});
  if (!bank) return mm::fail(bank.error());
  static std::atomic<std::uint64_t> inodes{1};
  return std::shared_ptr<mm::Backing>(
      new SharedMemory(std::move(*bank), inodes.fetch_add(1, std::memory_order_relaxed)));
}

mm::Result<> SharedMemory::read(std::uint64_t offset, std::span<std::byte> dst) {
  const std::uint64_t there = offset < size() ? std::min<std::uint64_t>(dst.size(), size() - offset) : 0;
  if (auto copied = mm::copy_guarded(dst.data(), bank_->host() + offset, there); !copied) return copied;
  std::ranges::fill(dst.subspan(there), std::byte{0});
  return {};
}

void SharedMemory::residency(std::uint64_t offset, std::span<std::uint8_t> out) const {
  add_residency({bank_->host(), bank_->size()}, offset, out);
}

}  // namespace ramet::vmm
