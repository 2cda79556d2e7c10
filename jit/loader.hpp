// eBPF objects as clang makes them (-target bpf): ELF with relocations, of which come programs whose calls and
// addresses are settled, and the maps that they name.
#pragma once

#include <cstddef>
#include <expected>
#include <span>
#include <string>

#include "jit/program.hpp"

namespace ramet::jit {

// Every global function of a section with code makes a program, those of .text only where there is no other section
// with code; functions that it calls follow behind it. Maps are those of `.maps` (described by BTF), of `maps` (struct
// bpf_map_def), and one of a value for each of .data*, .rodata* and .bss*. What is wrong with the object, in one
// sentence, is the error; check() says whether the programs are well-formed.
[[nodiscard]] std::expected<Object, std::string> load_object(std::span<const std::byte> file);

}  // namespace ramet::jit
