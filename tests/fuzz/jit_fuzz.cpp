// libFuzzer's way into jit/. The first byte chooses what the rest is: an object, bare instructions, or decisions of
// which a program is made that ends (tests/jit/random_program.hpp). What is refused says why; what is accepted is
// compiled for both instruction sets; the program that ends runs on this host as well and does what the interpreter
// does.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "jit/compiler.hpp"
#include "jit/loader.hpp"
#include "tests/jit/native.hpp"
#include "tests/jit/random_program.hpp"

namespace ramet::jit::test {
namespace {

using Bytes = std::span<const std::uint8_t>;
using Buffer = std::array<std::uint8_t, kBuffer>;

[[noreturn]] void finding(const std::string& what) {
  std::fprintf(stderr, "finding: %s\n", what.c_str());
  std::abort();
}

const Known& known() {
  static const Known kKnown{.helpers = std::vector<bool>(256, true), .variables = std::vector<bool>(4, true)};
  return kKnown;
}

void compile_both(const Program& program) {
  const auto checked = check(program, known());
  if (!checked) {
    if (checked.error().reason.empty() || checked.error().instruction > program.instructions.size())
      finding("a refusal that says nothing");
    return;
  }
  for (const InstructionSet set : {InstructionSet::X86_64, InstructionSet::Arm64}) {
    const Compiled compiled = compile(*checked, set);
    const auto size = static_cast<std::uint32_t>(compiled.code().size());
    std::vector<std::uint8_t> placed(size);
    compiled.place(placed, 0x10000, [](const Relocation& r) { return std::uint64_t{r.number} << 40; });
    for (std::uint32_t i = 0; i < program.instructions.size(); ++i)
      if (compiled.offset_of(i) > compiled.offset_of(i + 1) || compiled.offset_of(i) > size)
        finding("offsets that do not rise");
  }
}

void object(Bytes bytes) {
  const auto loaded = load_object(std::as_bytes(bytes));
  if (!loaded) {
    if (loaded.error().empty()) finding("an error that says nothing");
    return;
  }
  for (const Program& program : loaded->programs) compile_both(program);
}

void instructions(Bytes bytes) {
  Program program;
  program.maps = 2;
  program.instructions.resize(bytes.size() / sizeof(Instruction));
  std::ranges::copy(bytes.first(program.instructions.size() * sizeof(Instruction)),
                    reinterpret_cast<std::uint8_t*>(program.instructions.data()));
  compile_both(program);
}

void decisions(Bytes bytes) {
  static Native native;
  alignas(8) static Buffer buffer;
  std::size_t at = 0;
  const Program program = random_program(
      [&] {
        std::uint32_t word = 0;
        if (at + 2 <= bytes.size()) std::memcpy(&word, &bytes[at], 2);
        at += 2;
        return word * 0x9e3779b1u >> (word & 1 ? 0 : 15);  // small numbers and large ones
      },
      60);
  const auto checked = check(program, known());
  if (!checked) finding("refused: " + checked.error().said());
  compile_both(program);
  const Interpreter interpreter = interpreter_for(buffer);
  Buffer contents;
  for (unsigned n = 0; n < kBuffer; ++n) contents[n] = static_cast<std::uint8_t>(n * 37 + n / 256);
  buffer = contents;
  const auto input = reinterpret_cast<std::uint64_t>(buffer.data());
  const auto expected = interpreter.run(*checked, input, kInput);
  const Buffer expected_buffer = buffer;
  buffer = contents;
  native.place(compile(*checked, host_instruction_set()), interpreter);
  const auto r0 = native.run(input, kInput);
  if (r0 != expected || buffer != expected_buffer)
    finding("compiled code and the interpreter differ, signal " + std::to_string(native.ended_by));
}

}  // namespace
}  // namespace ramet::jit::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ramet::jit::test;
  if (size == 0) return 0;
  const Bytes rest(data + 1, size - 1);
  switch (data[0] % 3) {
    case 0: object(rest); break;
    case 1: instructions(rest); break;
    default: decisions(rest); break;
  }
  return 0;
}
