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
  std::span<const std::byte> bytes;  // in ElfObject::file; none for sections without contents (.bss)
};

struct ElfSymbol {
  std::string name;
  std::uint32_t section = 0;  // 0: undefined
  std::uint64_t value = 0, size = 0;
  std::uint8_t type = 0, binding = 0;
};

struct ElfRelocation {
  std::uint32_t section = 0;  // to be changed
  std::uint64_t at = 0;       // byte of the section
  std::uint32_t type = 0, symbol = 0;
};

struct ElfObject {
  std::vector<std::byte> file;  // what sections refer to
  std::vector<ElfSection> sections;
  std::vector<ElfSymbol> symbols;
  std::vector<ElfRelocation> relocations;
};

// Reads a relocatable, little-endian object for eBPF. Errors: what is wrong, in one sentence.
[[nodiscard]] std::expected<ElfObject, std::string> read_elf(std::span<const std::byte> file);

}  // namespace ramet::jit
