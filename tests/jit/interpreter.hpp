// The reference that compilers are compared with: as dumb as can be, one instruction after the other by RFC 9669.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "jit/check.hpp"

namespace ramet::jit::test {

struct Interpreter {
  using Helper = std::uint64_t (*)(std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t);
  std::function<Helper(std::uint32_t)> helper;
  // What a wide load of that kind gives.
  std::function<std::uint64_t(Wide, std::uint32_t number, std::uint32_t second)> address;
  // Asked before each access, if there; an access that it refuses ends the run.
  std::function<bool(std::uint64_t at, unsigned bytes)> may_access;
  std::uint64_t most_steps = ~std::uint64_t{0};

  // r0; nothing if it took too many steps or touched what it may not.
  std::optional<std::uint64_t> run(const Checked& program, std::uint64_t r1, std::uint64_t r2) const;
};

}  // namespace ramet::jit::test
