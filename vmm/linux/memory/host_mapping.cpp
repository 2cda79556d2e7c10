#include "vmm/linux/memory/host_mapping.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <vector>

namespace ramet::vmm {

std::uint64_t HostMappings::host_limit() {
  static const std::uint64_t limit = [] {
    unsigned long long read = 65530;
    if (std::FILE* file = std::fopen("/proc/sys/vm/max_map_count", "re")) {
      if (std::fscanf(file, "%llu", &read) != 1) read = 65530;
      std::fclose(file);
    }
    return read;
  }();
  return limit;
}

mm::Account& HostMappings::all() {
  static mm::Account account(host_limit() / 2);
  return account;
}

bool HostMappings::take(std::uint64_t n) {
  if (!own_.take(n)) return false;
  if (all().take(n)) return true;
  own_.give(n);
  return false;
}

void HostMappings::give(std::uint64_t n) {
  own_.give(n);
  all().give(n);
}

OrErrno<std::shared_ptr<HostMapping>> HostMapping::make(std::shared_ptr<HostMappings> of, std::uint64_t length,
                                                        int prot, int fd, off_t offset) {
  auto mapping = std::make_shared<HostMapping>(std::move(of));
  if (!mapping->place_) return err(ENOMEM);
  void* at = ::mmap(nullptr, length, prot, MAP_SHARED | MAP_NORESERVE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, offset);
  if (at == MAP_FAILED) return err(errno);
  mapping->bytes_ = {static_cast<std::byte*>(at), length};
  return mapping;
}

HostMapping::~HostMapping() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

void add_residency(std::span<std::byte> mapped, std::uint64_t offset, std::span<std::uint8_t> out) {
  if (offset >= mapped.size()) return;
  const std::size_t bytes = std::min<std::uint64_t>(mapped.size() - offset, out.size() * mm::kPageSize);
  std::vector<std::uint8_t> resident((bytes + mm::kPageSize - 1) / mm::kPageSize);
  if (::mincore(mapped.data() + offset, bytes, resident.data()) != 0)
    return;  // EAGAIN: the host has no memory for the answer
  for (std::size_t i = 0; i < resident.size(); ++i) out[i] = static_cast<std::uint8_t>(out[i] | (resident[i] & 1));
}

}  // namespace ramet::vmm
