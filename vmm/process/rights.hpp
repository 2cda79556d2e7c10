// Descriptors that go over a socket to another descriptor table, with a message of one byte (SCM_RIGHTS).
#pragma once

#include <cstddef>
#include <span>

namespace ramet::vmm::process {

inline constexpr std::size_t kMostRights = 4;  // at once

// At most kMostRights; they stay the caller's. False: errno says why.
bool send_descriptors(int socket, std::span<const int>);
// Those of the message that is there, without a wait; close-on-exec. False, and none is kept: there is no message, or
// fewer came with it, as where this table has no room. What came beyond is closed.
bool receive_descriptors(int socket, std::span<int>);

}  // namespace ramet::vmm::process
