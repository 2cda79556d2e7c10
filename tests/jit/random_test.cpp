// Programs made by chance: compiled code against the interpreter, on the host's own processor. RAMET_PROGRAMS says how
// many.
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <random>

#include "tests/jit/native.hpp"
#include "tests/jit/random_program.hpp"
#include "tests/scaled.hpp"

namespace ramet::jit::test {
namespace {

using Buffer = std::array<std::uint8_t, kBuffer>;

Buffer first_contents(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Buffer buffer;
  for (std::uint8_t& byte : buffer) byte = static_cast<std::uint8_t>(random() >> 32);
  return buffer;
}

// Where the outcomes differ, if they do.
std::string difference(const std::optional<std::uint64_t>& r0, const Buffer& buffer, std::uint64_t expected,
                       const Buffer& expected_buffer) {
  if (!r0) return "it took a signal";
  for (unsigned r = 0; r < 10; ++r)
    if (std::memcmp(&buffer[kRegistersAt + 8 * r], &expected_buffer[kRegistersAt + 8 * r], 8) != 0)
      return "r" + std::to_string(r);
  for (unsigned at = 0; at < kBuffer; ++at)
    if (buffer[at] != expected_buffer[at]) return "byte " + std::to_string(at) + " of the buffer";
  return *r0 == expected ? "" : "r0";
}

TEST(Random, CompiledProgramsDoWhatTheInterpreterDoes) {
  const char* asked = std::getenv("RAMET_PROGRAMS");
  const char* seeded = std::getenv("SEED");
  const std::uint64_t programs = asked ? std::strtoull(asked, nullptr, 0) : ramet::test::scaled(3000, 250);
  const std::uint64_t seed = seeded ? std::strtoull(seeded, nullptr, 0) : std::random_device{}();
  alignas(8) static Buffer buffer;
  const Interpreter interpreter = interpreter_for(buffer);
  const Known known{.helpers = std::vector<bool>(8, true), .variables = {}};
  Native native;
  for (std::uint64_t n = 0; n < programs; ++n) {
    SCOPED_TRACE("SEED=" + std::to_string(seed + n) + " repeats this as the first");
    std::mt19937 random(static_cast<std::uint32_t>(seed + n));
    const Program program = random_program([&] { return static_cast<std::uint32_t>(random()); }, 60);
    const auto checked = check(program, known);
    ASSERT_TRUE(checked) << checked.error().said();
    const Buffer contents = first_contents(seed + n);
    const auto input = reinterpret_cast<std::uint64_t>(buffer.data());
    buffer = contents;
    const std::uint64_t expected = interpreter.run(*checked, input, kInput).value();
    const Buffer expected_buffer = buffer;
    buffer = contents;
    const Compiled compiled = compile(*checked, host_instruction_set());
    native.place(compiled, interpreter);
    const auto r0 = native.run(input, kInput);
    ASSERT_EQ(difference(r0, buffer, expected, expected_buffer), "") << "signal " << native.ended_by;
  }
}

}  // namespace
}  // namespace ramet::jit::test
