// A loaded object: programs, and the maps that they name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "jit/instruction.hpp"

namespace ramet::jit {

// A map as an object defines it. The user of this room makes the map, and gives compiled programs its address.
struct MapDefinition {
  std::string name;
  std::uint32_t type = 0;  // Linux's number, BPF_MAP_TYPE_*
  std::uint32_t key_size = 0, value_size = 0, max_entries = 0, flags = 0;

  // For a section with global data: the map is an array of one value, which begins with these contents.
  std::vector<std::byte> contents;
  bool read_only = false;
  // The eight bytes at `at` in `contents` hold the address `offset` bytes into the value of a map.
  struct Pointer {
    std::uint32_t at = 0;
    std::uint32_t map = 0;
    std::uint64_t offset = 0;
  };
  std::vector<Pointer> pointers;
};

// Execution begins at instruction 0. Functions begin where calls lead to, and end where the next one begins.
struct Program {
  std::string name, section;
  std::vector<Instruction> instructions;
  std::uint32_t maps = 0;  // how many maps wide loads may name, from 0 on
};

// An ELF object of several programs, which share its maps.
struct Object {
  std::string licence;
  std::vector<MapDefinition> maps;
  std::vector<Program> programs;
};

inline constexpr std::size_t kMostInstructions = 1u << 20;  // of a program, Linux's number

}  // namespace ramet::jit
