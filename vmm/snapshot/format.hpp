// What a snapshot file consists of, byte for byte (little-endian):
//
//   Header | payload: pages, or compressed blocks of them | state (JSON) | runs | blocks
//
// The header holds the sizes and hashes of the other parts, and its own, which is the file's identity: it covers every
// byte of the file, those of the payload through the hashes of their blocks.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace ramet::vmm::snapshot {

inline constexpr std::array<char, 8> kMagic = {'R', 'A', 'M', 'E', 'T', 'S', 'N', 'P'};
inline constexpr std::uint32_t kVersion = 11;      // another version's files are refused
inline constexpr std::uint32_t kCompressed = 1;    // Header::flags
inline constexpr std::uint64_t kPageBytes = 4096;
inline constexpr std::uint64_t kBlockPages = 64, kBlockBytes = kBlockPages * kPageBytes;
inline constexpr std::uint64_t kMaxPages = 1ull << 26;   // 256 GiB
inline constexpr std::uint64_t kMaxState = 64ull << 20;  // bytes
inline constexpr unsigned kMaxParents = 32;

using Hash = std::array<std::uint64_t, 2>;         // XXH3, 128 bits

struct Part {
  std::uint64_t offset = 0, bytes = 0;
  Hash hash{};
  bool operator==(const Part&) const = default;
};

struct Header {
  std::array<char, 8> magic = kMagic;
  std::uint32_t version = kVersion;
  std::uint32_t flags = 0;
  std::uint64_t file_bytes = 0;
  std::uint64_t payload_pages = 0;
  Part state, runs, blocks;
  Hash parent{};  // identity of the file that runs may refer to; zero: there is none
  Hash identity{};  // hash of the header with zeroes here
  std::uint32_t machine = 0;  // the program's instruction set, by ELF's number (e_machine)
  std::array<std::byte, 4096 - 164> unused{};  // zeroes
  bool compressed() const { return flags & kCompressed; }
};
static_assert(sizeof(Header) == kPageBytes);

// Where the guest's pages from `start` on lie: in the payload of this file (source 0), of its parent (1), of the
// parent's parent (2)... In address order.
struct Run {
  std::uint64_t start = 0;
  std::uint64_t page = 0;  // in that payload
  std::uint32_t pages = 0;
  std::uint32_t source = 0;
};
static_assert(sizeof(Run) == 24);

// kBlockPages of the payload, the last one maybe fewer.
struct Block {
  std::uint64_t offset = 0;  // in the file
  std::uint64_t bytes = 0;  // there; as many as the pages have if not compressed
  std::uint64_t hash = 0;  // of these bytes, XXH3, 64 bits
};
static_assert(sizeof(Block) == 24);

Hash hash_of(std::span<const std::byte>);
std::uint64_t short_hash_of(std::span<const std::byte>);
Hash identity_of(Header);

}  // namespace ramet::vmm::snapshot
