// The process at the other end of an accepted connection. For the host that is the VMM. But the host tells which socket
// the other end is, and SocketNames knows which process connected it. See sockets.hpp.
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "vmm/linux/credentials.hpp"
#include "vmm/linux/sockets/sockets.hpp"

namespace ramet::vmm {
namespace {

constexpr std::size_t kManyCallers = 64;

// The inode of a connected socket's other end, from the host's sock_diag(7); 0: it is closed, or this host does not
// tell.
ino_t other_end(const OpenFile& socket) {
  struct stat st{};
  const HostFd netlink(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!netlink || ::fstat(socket.host.get(), &st) != 0) return 0;
  struct {
    nlmsghdr header;
    unix_diag_req request;
  } question{};
  question.header = {.nlmsg_len = sizeof question,
                     .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                     .nlmsg_flags = NLM_F_REQUEST,
                     .nlmsg_seq = 0,
                     .nlmsg_pid = 0};
  question.request.sdiag_family = AF_UNIX;
  question.request.udiag_states = ~0u;
  question.request.udiag_ino = static_cast<std::uint32_t>(st.st_ino);
  question.request.udiag_show = UDIAG_SHOW_PEER;
  question.request.udiag_cookie[0] = question.request.udiag_cookie[1] = ~0u;  // any
  if (::send(netlink.get(), &question, sizeof question, 0) != sizeof question) return 0;
  alignas(nlmsghdr) std::array<std::byte, 1024> answer;
  const ssize_t got = ::recv(netlink.get(), answer.data(), answer.size(),
                             MSG_DONTWAIT);  // it is there when send(2) is back
  auto* const header = reinterpret_cast<nlmsghdr*>(answer.data());
  if (got < 0 || !NLMSG_OK(header, static_cast<std::size_t>(got)) || header->nlmsg_type != SOCK_DIAG_BY_FAMILY ||
      header->nlmsg_len < NLMSG_LENGTH(sizeof(unix_diag_msg)))
    return 0;
  auto left = static_cast<unsigned>(header->nlmsg_len - NLMSG_LENGTH(sizeof(unix_diag_msg)));
  auto* attribute = reinterpret_cast<rtattr*>(static_cast<unix_diag_msg*>(NLMSG_DATA(header)) + 1);
  for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
    std::uint32_t inode;
    if (attribute->rta_type != UNIX_DIAG_PEER || RTA_PAYLOAD(attribute) != sizeof inode) continue;
    std::memcpy(&inode, RTA_DATA(attribute), sizeof inode);
    return inode;
  }
  return 0;
}

}  // namespace

void SocketNames::connects(const std::shared_ptr<OpenFile>& socket, const ucred& caller) {
  struct stat st{};
  if (::fstat(socket->host.get(), &st) != 0) return;
  LockGuard guard(lock_);
  if (callers_.size() >= many_callers_) {
    std::erase_if(callers_, [](const auto& entry) { return entry.second.socket.expired(); });
    many_callers_ = std::max(kManyCallers, 2 * callers_.size());
  }
  const Credentials& vmm = *Credentials::of_vmm();
  if (caller.uid != vmm.user.effective || caller.gid != vmm.group.effective) other_callers_ = true;
  callers_.insert_or_assign(st.st_ino, Caller{socket, caller});
}

ucred SocketNames::who_connected(const OpenFile& accepted) const {
  const ino_t inode = other_end(accepted);
  LockGuard guard(lock_);
  const auto found = callers_.find(inode);
  if (inode != 0 && found != callers_.end() && !found->second.socket.expired()) return found->second.who;
  if (other_callers_) return {0, kOverflowId, kOverflowId};
  return {0, Credentials::of_vmm()->user.effective, Credentials::of_vmm()->group.effective};
}

}  // namespace ramet::vmm
