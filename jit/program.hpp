// What is loaded: programs, and the maps that they name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "jit/instruction.hpp"

namespace ramet::jit {

// A map as an object defines it. What makes it is the user of this room, who gives compiled programs its address.
struct MapDefinition {
  std::string name;
  std::uint32_t type = 0;  // Linux's number, BPF_MAP_TYPE_*
  std::uint32_t key_size = 0, value_size = 0, max_entries = 0, flags = 0;

  // Of a section with the program's global data: an array of one value, which begins as this.
  std::vector<std::byte> contents;
  bool read_only = false;
  // Eight bytes of `contents` that hold an address in the value of a map.
  struct Pointer {
    std::uint32_t at = 0;
    std::uint32_t map = 0;
    std::uint64_t offset = 0;
  };
  std::vector<Pointer> pointers;
};

// Execution begins at instruction 0. Functions are where calls lead to, each up to the next one.
struct Program {
  std::string name, section;
  std::vector<Instruction> instructions;
  std::uint32_t maps = 0;  // how many there are for wide loads to name, from 0 on
};

// An ELF object of several programs, which share its maps.
struct Object {
  std::string licence;
  std::vector<MapDefinition> maps;
  std::vector<Program> programs;
};

inline constexpr std::size_t kMostInstructions = 1u << 20;  // of a program, Linux's number

}  // namespace ramet::jit
