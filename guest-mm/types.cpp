// Names of errors, for messages.
#include "guest-mm/types.hpp"

namespace ramet::mm {

std::string_view describe(Error e) {
  switch (e) {
    case Error::NoMemory: return "out of memory";
    case Error::NotMapped: return "address not mapped";
    case Error::NotPermitted: return "access not permitted";
    case Error::BeyondEnd: return "beyond the end of the file";
    case Error::Invalid: return "invalid argument";
    case Error::Exists: return "already mapped";
    case Error::Io: return "input/output error";
    case Error::Pinned:
      return "memory is pinned: a device may write to it, so it can be neither moved, reset nor freed";
  }
  return "unknown error";
}

}  // namespace ramet::mm
