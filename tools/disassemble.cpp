#include "tools/disassemble.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#ifdef RAMET_CAPSTONE
#include <capstone/capstone.h>
#endif

namespace ramet::tools {

#ifdef RAMET_CAPSTONE
std::expected<std::vector<CodeLine>, vmm::Failure> disassemble(std::span<const std::uint8_t> code,
                                                               jit::InstructionSet set) {
  csh engine{};
  const bool x86 = set == jit::InstructionSet::X86_64;
  if (const cs_err e = cs_open(x86 ? CS_ARCH_X86 : CS_ARCH_ARM64, x86 ? CS_MODE_64 : CS_MODE_ARM, &engine);
      e != CS_ERR_OK)
    return vmm::failure(fmt::format("the disassembler cannot be used: {}", cs_strerror(e)));
  std::vector<CodeLine> lines;
  for (std::size_t at = 0; at < code.size();) {
    cs_insn* found = nullptr;
    const std::size_t n = cs_disasm(engine, code.data() + at, code.size() - at, at, 0, &found);
    for (std::size_t i = 0; i < n; ++i)
      lines.push_back(
          {static_cast<std::uint32_t>(found[i].address), fmt::format("{:<7} {}", found[i].mnemonic, found[i].op_str)});
    at = n ? found[n - 1].address + found[n - 1].size : at;
    if (n) cs_free(found, n);
    if (at == code.size()) break;
    const std::size_t step = std::min<std::size_t>(x86 ? 1 : 4, code.size() - at);  // what it does not know
    lines.push_back(
        {static_cast<std::uint32_t>(at), fmt::format(".byte   {:#04x}", fmt::join(code.subspan(at, step), ", "))});
    at += step;
  }
  cs_close(&engine);
  return lines;
}
#else
std::expected<std::vector<CodeLine>, vmm::Failure> disassemble(std::span<const std::uint8_t>, jit::InstructionSet) {
  return vmm::failure(
      "this ramet was built without Capstone, its disassembler: use one of another host, which shows the code of both instruction sets");
}
#endif

}  // namespace ramet::tools
