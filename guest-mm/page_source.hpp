// Loads a bank's pages that are not present from the start: those of a snapshot file, on machines where the host does
// not report first touches (stage 2). Such pages are loaded before they are read or mapped.
#pragma once

#include <cstdint>

#include "guest-mm/types.hpp"

namespace ramet::mm {

// Offsets are bytes from the start of the bank. Thread-safe; it takes no lock of this room, and may be called with any.
class PageSource {
 public:
  virtual ~PageSource() = default;
  // When this returns, [start, end) is present for good. Takes as long as the host takes to read a file. A page that
  // cannot be read ends the program, as the guest cannot go on without it.
  virtual void bring(std::uint64_t start, std::uint64_t end) = 0;
  // The largest range inside `within` that is present and holds the page of `at`; empty if that page is not present.
  virtual Range there(std::uint64_t at, Range within) const = 0;
};

}  // namespace ramet::mm
