// Objects made of tests/jit/programs at build time.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace ramet::jit::test {

inline std::vector<std::byte> read_object(const std::string& name) {
  std::ifstream file(std::string(RAMET_BPF_OBJECTS) + "/" + name + ".o", std::ios::binary);
  EXPECT_TRUE(file) << name;
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
  const auto* start = reinterpret_cast<const std::byte*>(bytes.data());
  return {start, start + bytes.size()};
}

}  // namespace ramet::jit::test
