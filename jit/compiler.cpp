#include "jit/compiler.hpp"

#include <algorithm>
#include <cstring>

namespace ramet::jit {

Compiled compile(const Checked& program, InstructionSet set) {
  return set == InstructionSet::X86_64 ? compile_x86_64(program) : compile_arm64(program);
}

std::uint32_t Compiled::instruction_at(std::uint32_t offset) const {
  const std::uint32_t *begin = offsets_.get(), *end = begin + count_;
  const std::uint32_t* after = std::upper_bound(begin, end, offset);
  if (after == begin) return 0;
  // The first of those that were translated together.
  return static_cast<std::uint32_t>(std::lower_bound(begin, end, after[-1]) - begin);
}

void Compiled::place(std::span<std::uint8_t> to, std::uint64_t address,
                     const std::function<std::uint64_t(const Relocation&)>& resolve) const {
  std::memcpy(to.data(), code_.get(), size_);
  const auto relocate = set_ == InstructionSet::X86_64 ? relocate_x86_64 : relocate_arm64;
  for (const Relocation& r : relocations_) relocate(to, address, r, resolve(r));
}

}  // namespace ramet::jit
