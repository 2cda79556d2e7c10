#include "vmm/process/rights.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace ramet::vmm::process {
namespace {

struct Message {
  char byte = 0;
  iovec piece{&byte, 1};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kMostRights * sizeof(int))> control{};
  msghdr header{};
  explicit Message(std::size_t descriptors) {
    header.msg_iov = &piece, header.msg_iovlen = 1;
    header.msg_control = control.data(), header.msg_controllen = CMSG_SPACE(descriptors * sizeof(int));
  }
  Message(const Message&) = delete;
  Message& operator=(const Message&) = delete;
};

}  // namespace

bool send_descriptors(int socket, std::span<const int> descriptors) {
  Message message(descriptors.size());
  cmsghdr* const rights = CMSG_FIRSTHDR(&message.header);
  rights->cmsg_level = SOL_SOCKET, rights->cmsg_type = SCM_RIGHTS,
  rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
  std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
  return ::sendmsg(socket, &message.header, MSG_NOSIGNAL) == 1;
}

bool receive_descriptors(int socket, std::span<int> descriptors) {
  Message message(descriptors.size());
  if (::recvmsg(socket, &message.header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0) return false;
  const cmsghdr* const rights = CMSG_FIRSTHDR(&message.header);
  if (!rights || rights->cmsg_type != SCM_RIGHTS) return false;
  // The sender may send more, and CMSG_SPACE of an odd number has room for one more.
  std::array<int, kMostRights> came{};
  const std::size_t count = std::min((rights->cmsg_len - CMSG_LEN(0)) / sizeof(int), came.size());
  std::memcpy(came.data(), CMSG_DATA(rights), count * sizeof(int));
  const bool enough = count >= descriptors.size();
  for (std::size_t i = enough ? descriptors.size() : 0; i < count; ++i) ::close(came[i]);
  if (enough) std::copy_n(came.begin(), descriptors.size(), descriptors.begin());
  return enough;
}

}  // namespace ramet::vmm::process
