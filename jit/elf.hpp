// An ELF object's sections, symbols and relocations, read by libelf, with every number checked against the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ramet::jit {

struct ElfSection {
  std::string name;
  std::uint32_t type = 0;
  std::uint64_t flags = 0, size = 0;
  std::span<const std::byte> bytes;  // of the file; none for what has none there (.bss)
};

struct ElfSymbol {
  std::string name;
  std::uint32_t section = 0;  // 0: undefined
  std::uint64_t value = 0, size = 0;
  std::uint8_t type = 0, binding = 0;
};

struct ElfRelocation {
  std::uint32_t section = 0;  // that is changed
  std::uint64_t at = 0;
  std::uint32_t type = 0, symbol = 0;
};

struct ElfObject {
  std::vector<std::byte> file;  // what sections refer to
  std::vector<ElfSection> sections;
  std::vector<ElfSymbol> symbols;
  std::vector<ElfRelocation> relocations;
};

// A relocatable object for eBPF, little-endian; else what is wrong, in one sentence.
[[nodiscard]] std::expected<ElfObject, std::string> read_elf(std::span<const std::byte> file);

}  // namespace ramet::jit
