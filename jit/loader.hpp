// Loads eBPF objects as clang makes them (-target bpf): from ELF with relocations come programs whose calls and
// addresses are resolved, and the maps that they name.
#pragma once

#include <cstddef>
#include <expected>
#include <span>
#include <string>

#include "jit/program.hpp"

namespace ramet::jit {

// Every global function of a section with code makes a program, those of .text only if no other section has code;
// functions that it calls follow it. Maps come from `.maps` (described by BTF), from `maps` (struct bpf_map_def), and
// one with a single value from each of .data*, .rodata* and .bss*. Errors: what is wrong with the object, in one
// sentence. check() says whether the programs are well-formed.
[[nodiscard]] std::expected<Object, std::string> load_object(std::span<const std::byte> file);

}  // namespace ramet::jit
