// What the loader needs to know of an ELF file, checked. Every byte of the file is hostile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "arch/guest_abi.hpp"
#include "guest-mm/types.hpp"
#include "vmm/error.hpp"

namespace ramet::vmm {

// A PT_LOAD segment. Guaranteed: ascending and disjoint, file_bytes <= memory_bytes, the file's part within
// the file, address and offset congruent modulo the page size, the end not above the ABI's user_end.
struct Segment {
  std::uint64_t address = 0, memory_bytes = 0;
  std::uint64_t offset = 0, file_bytes = 0;
  mm::Prot prot = mm::Prot::None;
};

struct ElfFile {
  bool relocatable = false;         // ET_DYN: may go anywhere
  std::uint64_t entry = 0;
  std::uint64_t headers = 0;        // address of the program headers in memory; 0 if no segment holds them
  std::uint16_t header_count = 0;
  std::uint64_t alignment = 0;      // largest of the segments', a power of two
  std::vector<Segment> segments;    // at least one
  std::string interpreter;          // PT_INTERP; empty: none
  bool executable_stack = false;

  std::uint64_t start() const;      // of the first segment's page
  std::uint64_t end() const;        // of the last segment, page-aligned upwards
};

// Reads exactly out.size() bytes at an offset; false if they are not there.
using ReadAt = std::function<bool(std::uint64_t offset, std::span<std::byte> out)>;

// A program for that ABI; `name` is for messages. Errors have status 126: empty, not ELF, another architecture,
// truncated, malformed.
std::expected<ElfFile, Failure> read_elf(const std::string& name, const arch::GuestAbi&, std::uint64_t file_bytes,
                                         const ReadAt& read);

// For people, of an ELF file's e_machine: "arm64 (aarch64)", "machine number 9".
std::string elf_machine_name(unsigned machine);

}  // namespace ramet::vmm
