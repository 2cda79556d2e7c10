// Checksums of snapshot files.
#include "vmm/snapshot/format.hpp"

#include <xxhash.h>

namespace ramet::vmm::snapshot {

Hash hash_of(std::span<const std::byte> bytes) {
  const XXH128_hash_t h = XXH3_128bits(bytes.data(), bytes.size());
  return {h.low64, h.high64};
}

std::uint64_t short_hash_of(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

Hash identity_of(Header header) {
  header.identity = {};
  return hash_of(std::as_bytes(std::span(&header, 1)));
}

}  // namespace ramet::vmm::snapshot
