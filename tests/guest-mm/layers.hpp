// For tests of layers: the suite, and memory whose words tell where they are.
#pragma once

#include <gtest/gtest.h>

#include <ios>

#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {

// Instantiated in layers_test.cpp: build trees that have only some of the files with these tests have that one.
class Layers : public ForEachFormat {};

inline void write_words(World& w, Gva from, std::uint64_t length, std::uint64_t what, std::uint64_t step = kPageSize) {
  for (Gva at = from; at < from + length; at += step) ASSERT_TRUE(w.cpu().store(at, at ^ what));
}
inline void expect_words(World& w, Gva from, std::uint64_t length, std::uint64_t what, std::uint64_t step = kPageSize) {
  for (Gva at = from; at < from + length; at += step) ASSERT_EQ(w.cpu().load(at), at ^ what) << std::hex << at;
}

}  // namespace ramet::mm::test
