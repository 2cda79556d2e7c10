// Machine code as text.
#pragma once

#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <vector>

#include "jit/compiler.hpp"
#include "vmm/error.hpp"

namespace ramet::tools {

struct CodeLine {
  std::uint32_t offset = 0;
  std::string text;
};
// Errors: this program was built without a disassembler.
std::expected<std::vector<CodeLine>, vmm::Failure> disassemble(std::span<const std::uint8_t> code, jit::InstructionSet);

}  // namespace ramet::tools
