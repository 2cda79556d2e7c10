// What brings a bank's pages that are not there from the start: a snapshot file's, on machines where the host does not
// tell of touches (stage 2). Such pages are brought before anybody looks at them or maps them.
#pragma once

#include <cstdint>

namespace ramet::mm {

// Offsets are bytes from the start of the bank. Thread-safe; it takes no lock of this room, and may be called with any.
class PageSource {
 public:
  struct Range {
    std::uint64_t start = 0, end = 0;
  };

  virtual ~PageSource() = default;
  // When this returns, [start, end) is there for good. Takes as long as the host takes to read a file. A page that
  // cannot be had ends the program, as a guest can neither have it nor go on without it.
  virtual void bring(std::uint64_t start, std::uint64_t end) = 0;
  // The largest range within `within` that has the page of `at` in it and is there; empty if that page is not.
  virtual Range there(std::uint64_t at, Range within) const = 0;
};

}  // namespace ramet::mm
