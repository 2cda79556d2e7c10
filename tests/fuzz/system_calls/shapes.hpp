// What the arguments of a system call are, so that chance finds more than EFAULT and EBADF.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace ramet::fuzz {

struct Shape {
  enum Kind : std::uint8_t {
    None,        // no such argument
    Scalar,      // anything: small, extreme, a pointer, a descriptor
    Fd,
    DirFd,
    Id,
    Signal,
    Size,
    Count,
    Offset,
    Mode,
    Pointer,     // somewhere in the arena or far out of it
    Page,        // the same, at a page's start most of the time
    Path,
    Text,
    Strings,
    Iov,
    Message,
    SocketName,
    Set,
    Times,
    Action,
    Words,
    Ints, // `number` of them in memory
    Flags,       // some of `values`, or all wrong
    OneOf,       // one of `values`, or wrong
    Fixed,       // `number`
  } kind = None;
  std::span<const std::uint64_t> values = {};
  std::uint64_t number = 0;
};

struct CallShape {
  unsigned number = 0;
  std::array<Shape, 6> arguments{};
};

// A call may come more than once, with different arguments.
std::span<const CallShape> call_shapes();

}  // namespace ramet::fuzz
