// For tests of pins: the suite, and a device that writes and reads what is pinned.
#pragma once

#include <gtest/gtest.h>

#include <atomic>

#include "guest-mm/pin.hpp"
#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {

// Instantiated in pin_race_test.cpp: build trees that have only some of the files with these tests have that one.
class Pins : public ForEachFormat {};

// What a device does: it knows host memory only.
inline void dma_write(const Pin& pin, std::uint64_t offset, std::uint64_t value) {
  for (const HostRange& r : pin.ranges()) {
    if (offset < r.bytes.size())
      return std::atomic_ref(*reinterpret_cast<std::uint64_t*>(as_device(r, offset))).store(value);
    offset -= r.bytes.size();
  }
  FAIL() << "beyond the pin";
}
inline std::uint64_t dma_read(const Pin& pin, std::uint64_t offset) {
  for (const HostRange& r : pin.ranges()) {
    if (offset < r.bytes.size()) return std::atomic_ref(*reinterpret_cast<std::uint64_t*>(as_device(r, offset))).load();
    offset -= r.bytes.size();
  }
  ADD_FAILURE() << "beyond the pin";
  return 0;
}

}  // namespace ramet::mm::test
