// For tests: a said area of the process machine (arch/process_layout.h), in which a guest's process reports to the VMM,
// and numbers that it may contain.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <random>
#include <span>

#include "arch/process_layout.h"

namespace ramet::vmm::process {

inline constexpr std::uint64_t kSaidBase = RAMET_SAID +
                                           7 * std::uint64_t{RAMET_SAID_SIZE};  // where the process sees it

// The area lies between inaccessible pages.
class Said {
 public:
  Said() {
    all_ = static_cast<std::byte*>(
        mmap(nullptr, RAMET_SAID_SIZE + 0x2000, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (all_ == MAP_FAILED || mprotect(all_ + 0x1000, RAMET_SAID_SIZE, PROT_READ | PROT_WRITE) != 0)
      throw std::bad_alloc();
  }
  ~Said() { munmap(all_, RAMET_SAID_SIZE + 0x2000); }
  Said(const Said&) = delete;
  Said& operator=(const Said&) = delete;
  std::span<std::byte> bytes() const { return {all_ + 0x1000, RAMET_SAID_SIZE}; }
  template <class T>
  void put(std::uint64_t at, T value) const {
    std::memcpy(bytes().data() + at, &value, sizeof value);
  }
  template <class T>
  T get(std::uint64_t at) const {
    T value;
    std::memcpy(&value, bytes().data() + at, sizeof value);
    return value;
  }

 private:
  std::byte* all_;
};

struct Draws {
  std::mt19937_64 random;
  std::uint64_t below(std::uint64_t n) { return random() % n; }
  // An address where `bytes` bytes just fit into the area, or just do not, or any other.
  std::uint64_t place(std::uint64_t bytes, std::uint64_t alignment) {
    switch (below(8)) {
      case 0: return random() >> below(64);
      case 1: return kSaidBase + RAMET_SIGNAL_STACK + below(5) - 2;
      case 2: return kSaidBase + RAMET_SAID_SIZE - bytes + (below(5) - 2) * (below(2) ? 1 : alignment);
      case 3: return kSaidBase + below(2 * RAMET_SAID_SIZE) - RAMET_SAID_SIZE / 2;
      default: return kSaidBase + below(RAMET_SAID_SIZE) / alignment * alignment;
    }
  }
};

inline bool lies_in(std::uint64_t at, std::uint64_t bytes, std::uint64_t alignment) {
  return at % alignment == 0 && at >= kSaidBase + RAMET_SIGNAL_STACK && at <= kSaidBase + RAMET_SAID_SIZE - bytes;
}

}  // namespace ramet::vmm::process
