// Socket calls. A sandboxed program has no network and cannot name the host's sockets; what there is are
// connected pairs within the program itself (socketpair).
#include <fcntl.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cerrno>

#include "vmm/linux/thread.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

constexpr int kSendFlags = MSG_DONTWAIT | MSG_NOSIGNAL | MSG_EOR | MSG_MORE;
constexpr int kReceiveFlags = MSG_DONTWAIT | MSG_PEEK | MSG_WAITALL | MSG_TRUNC | MSG_CMSG_CLOEXEC;

OrErrno<std::shared_ptr<OpenFile>> get(Thread& thread, int fd) {
  auto file = thread.process.files.get(fd);
  if (!file) return err(EBADF);
  if (file->kind != OpenFile::Kind::Socket) return err(ENOTSOCK);
  return file;
}

std::int64_t sys_socket(Thread&, const Args&) { return -EAFNOSUPPORT; }

std::int64_t sys_socketpair(Thread& thread, const Args& a) {
  constexpr int kFlags = SOCK_CLOEXEC | SOCK_NONBLOCK;
  const int type = a.i32(1);
  if (a.i32(0) != AF_UNIX) return -EAFNOSUPPORT;
  if ((type & ~kFlags) != SOCK_STREAM && (type & ~kFlags) != SOCK_DGRAM && (type & ~kFlags) != SOCK_SEQPACKET)
    return -ESOCKTNOSUPPORT;
  std::array<int, 2> guest{-1, -1};
  if (!write_user(thread.memory(), a[3], guest)) return -EFAULT;  // before there is anything to undo
  int host[2];
  if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, a.i32(2), host) != 0) return -errno;
  std::array<HostFd, 2> ends{HostFd(host[0]), HostFd(host[1])};
  for (std::size_t i = 0; i < 2; ++i) {
    auto file = std::make_shared<OpenFile>();
    file->kind = OpenFile::Kind::Socket;
    file->host = std::move(ends[i]);
    file->flags = O_RDWR;
    auto fd = thread.process.files.install(std::move(file), type & SOCK_CLOEXEC);
    if (!fd) {
      if (i == 1) thread.process.files.close(guest[0]);
      return -fd.error();
    }
    guest[i] = *fd;
  }
  return write_user(thread.memory(), a[3], guest) ? 0 : -EFAULT;
}

std::int64_t transfer(Thread& thread, int fd, long call, msghdr& message, int flags) {
  auto file = get(thread, fd);
  if (!file) return -file.error();
  // The host takes IOV_MAX pieces. A stream may move a part; a message that is in more pieces is too long.
  if (message.msg_iovlen > IOV_MAX) {
    int type = 0;
    socklen_t length = sizeof type;
    if (getsockopt((*file)->host.get(), SOL_SOCKET, SO_TYPE, &type, &length) != 0) return -errno;
    if (type != SOCK_STREAM) return -EMSGSIZE;
    message.msg_iovlen = IOV_MAX;
  }
  // The guest gets its own SIGPIPE; the host's must not come to the VMM.
  const int host_flags = call == SYS_sendmsg ? flags | MSG_NOSIGNAL : flags;
  std::int64_t r = thread.blocking(call, static_cast<std::uint64_t>((*file)->host.get()),
                                   reinterpret_cast<std::uint64_t>(&message), static_cast<std::uint64_t>(host_flags));
  if (r == -EPIPE && call == SYS_sendmsg && !(flags & MSG_NOSIGNAL))
    (void)send_to_thread(thread.process, thread.tid, signal_from(thread.process, SIGPIPE, SI_USER));
  return r == -EINTR ? kRestartSys : r;
}

// One buffer, with an address that must be absent: the sockets of a pair are connected.
std::int64_t send_buffer(Thread& thread, const Args& a) {
  if (a.i32(3) & ~kSendFlags) return -EOPNOTSUPP;
  if (a[4]) return -EISCONN;
  auto buffers = UserBuffers::one(thread.memory(), a[1], a[2], mm::Access::Read);
  if (!buffers) return -buffers.error();
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(buffers->iov().data());
  message.msg_iovlen = buffers->iov().size();
  return transfer(thread, a.i32(0), SYS_sendmsg, message, a.i32(3));
}

std::int64_t receive_buffer(Thread& thread, const Args& a) {
  if (a.i32(3) & ~kReceiveFlags) return -EOPNOTSUPP;
  auto buffers = UserBuffers::one(thread.memory(), a[1], a[2], mm::Access::Write);
  if (!buffers) return -buffers.error();
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(buffers->iov().data());
  message.msg_iovlen = buffers->iov().size();
  std::int64_t r = transfer(thread, a.i32(0), SYS_recvmsg, message, a.i32(3));
  // The peer has no name: an address that was asked for comes back empty.
  if (r >= 0 && a[5] && !write_user(thread.memory(), a[5], socklen_t{0})) return -EFAULT;
  return r;
}

// sendmsg and recvmsg without ancillary data: descriptors are the guest's numbers, not the host's.
std::int64_t sys_sendmsg(Thread& thread, const Args& a) {
  if (a.i32(2) & ~kSendFlags) return -EOPNOTSUPP;
  auto user = read_user<msghdr>(thread.memory(), a[1]);
  if (!user) return -user.error();
  if (user->msg_name && user->msg_namelen) return -EISCONN;
  if (user->msg_control && user->msg_controllen) return -EOPNOTSUPP;
  auto buffers = UserBuffers::vector(thread.memory(), reinterpret_cast<mm::Gva>(user->msg_iov), user->msg_iovlen, mm::Access::Read);
  if (!buffers) return buffers.error() == EINVAL ? -EMSGSIZE : -buffers.error();
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(buffers->iov().data());
  message.msg_iovlen = buffers->iov().size();
  return transfer(thread, a.i32(0), SYS_sendmsg, message, a.i32(2));
}

std::int64_t sys_recvmsg(Thread& thread, const Args& a) {
  if (a.i32(2) & ~kReceiveFlags) return -EOPNOTSUPP;
  auto user = read_user<msghdr>(thread.memory(), a[1]);
  if (!user) return -user.error();
  auto buffers = UserBuffers::vector(thread.memory(), reinterpret_cast<mm::Gva>(user->msg_iov), user->msg_iovlen, mm::Access::Write);
  if (!buffers) return buffers.error() == EINVAL ? -EMSGSIZE : -buffers.error();
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(buffers->iov().data());
  message.msg_iovlen = buffers->iov().size();
  std::int64_t r = transfer(thread, a.i32(0), SYS_recvmsg, message, a.i32(2));
  if (r < 0) return r;
  user->msg_namelen = 0;
  user->msg_controllen = 0;
  user->msg_flags = message.msg_flags;
  return write_user(thread.memory(), a[1], *user) ? r : -EFAULT;
}

std::int64_t sys_shutdown(Thread& thread, const Args& a) {
  auto file = get(thread, a.i32(0));
  if (!file) return -file.error();
  return shutdown((*file)->host.get(), a.i32(1)) == 0 ? 0 : -errno;
}

std::int64_t sys_getsockopt(Thread& thread, const Args& a) {
  auto file = get(thread, a.i32(0));
  if (!file) return -file.error();
  const int name = a.i32(2);
  if (a.i32(1) != SOL_SOCKET || (name != SO_TYPE && name != SO_ERROR && name != SO_SNDBUF && name != SO_RCVBUF && name != SO_DOMAIN))
    return -ENOPROTOOPT;
  auto room = read_user<socklen_t>(thread.memory(), a[4]);
  if (!room) return -room.error();
  int value = 0;
  socklen_t length = sizeof value;
  if (getsockopt((*file)->host.get(), SOL_SOCKET, name, &value, &length) != 0) return -errno;
  length = std::min<socklen_t>(*room, sizeof value);
  if (!thread.memory().write(a[3], std::as_bytes(std::span(&value, 1)).first(length))) return -EFAULT;
  return write_user(thread.memory(), a[4], length) ? 0 : -EFAULT;
}

std::int64_t sys_setsockopt(Thread& thread, const Args& a) {
  auto file = get(thread, a.i32(0));
  if (!file) return -file.error();
  const int name = a.i32(2);
  if (a.i32(1) != SOL_SOCKET || (name != SO_SNDBUF && name != SO_RCVBUF)) return -ENOPROTOOPT;
  if (a[4] < sizeof(int)) return -EINVAL;
  auto value = read_user<int>(thread.memory(), a[3]);
  if (!value) return -value.error();
  return setsockopt((*file)->host.get(), SOL_SOCKET, name, &*value, sizeof *value) == 0 ? 0 : -errno;
}

}  // namespace

std::span<const Definition> socket_calls() {
  static constexpr Definition kCalls[] = {
      {SYS_socket, "socket", sys_socket},
      {SYS_socketpair, "socketpair", sys_socketpair},
      {SYS_sendto, "sendto", send_buffer},
      {SYS_recvfrom, "recvfrom", receive_buffer},
      {SYS_sendmsg, "sendmsg", sys_sendmsg},
      {SYS_recvmsg, "recvmsg", sys_recvmsg},
      {SYS_shutdown, "shutdown", sys_shutdown},
      {SYS_getsockopt, "getsockopt", sys_getsockopt},
      {SYS_setsockopt, "setsockopt", sys_setsockopt},
  };
  return kCalls;
}

}  // namespace ramet::vmm
