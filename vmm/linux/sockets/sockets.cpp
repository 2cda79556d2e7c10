// Socket calls but for those about names. A sandboxed program has no network and cannot name the host's sockets; what
// there is are sockets within its family (AF_UNIX). See sockets.hpp.
#include "vmm/linux/sockets/sockets.hpp"

#include <fcntl.h>
#include <limits.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <optional>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/time/guest_time.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

constexpr int kSendFlags = MSG_DONTWAIT | MSG_NOSIGNAL | MSG_EOR | MSG_MORE;
constexpr int kReceiveFlags = MSG_DONTWAIT | MSG_PEEK | MSG_WAITALL | MSG_TRUNC | MSG_CMSG_CLOEXEC;

std::int64_t sys_socket(Thread& thread, const Args& a) {
  const int type = a.i32(1);
  if (a.i32(0) != AF_UNIX) return -EAFNOSUPPORT;
  HostFd host(::socket(AF_UNIX, type | SOCK_CLOEXEC, a.i32(2)));
  if (!host) return -errno;
  auto fd = thread.process.files.install(make_socket(std::move(host)), type & SOCK_CLOEXEC);
  return fd ? *fd : -fd.error();
}

std::int64_t sys_socketpair(Thread& thread, const Args& a) {
  const int type = a.i32(1);
  if (a.i32(0) != AF_UNIX) return -EAFNOSUPPORT;
  std::array<int, 2> guest{-1, -1};
  if (!write_user(thread.memory(), a[3], guest)) return -EFAULT;  // before there is anything to undo
  int host[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, a.i32(2), host) != 0) return -errno;
  HostFd first(host[0]), second(host[1]);
  auto one = make_socket(std::move(first)), other = make_socket(std::move(second));
  const auto join = [&](OpenFile& end, const OpenFile& to) {
    SocketEnds& ends = ends_of(end);
    LockGuard guard(ends.lock);
    ends.peer_credentials = own_credentials(thread);
    ends.other = std::static_pointer_cast<SocketEnds>(to.operations);
  };
  join(*one, *other), join(*other, *one);
  auto pair = state_of(thread).install_pair(std::move(one), std::move(other), type & SOCK_CLOEXEC);
  if (!pair) return -pair.error();
  if (write_user(thread.memory(), a[3], *pair)) return 0;
  for (int fd : *pair) thread.process.files.close(fd);
  return -EFAULT;
}

// Points the host's message to the guest's buffers. The host takes IOV_MAX pieces: a stream transfers that part, other
// messages with more pieces are too long (-EMSGSIZE).
std::int64_t set_pieces(msghdr& message, const UserBuffers& buffers, const OpenFile& file) {
  message.msg_iov = const_cast<iovec*>(buffers.iov().data());
  message.msg_iovlen = buffers.iov().size();
  if (message.msg_iovlen <= IOV_MAX) return 0;
  if (type_of(file) != SOCK_STREAM) return -EMSGSIZE;
  message.msg_iovlen = IOV_MAX;
  return 0;
}

std::int64_t call(Thread& thread, long number, const OpenFile& file, msghdr& message, int flags) {
  const std::int64_t r = thread.blocking(number, static_cast<std::uint64_t>(file.host.get()),
                                         reinterpret_cast<std::uint64_t>(&message), static_cast<std::uint64_t>(flags));
  return restartable(r);
}

// Whether a message must carry its sender's ids. On a connection not made by socketpair(2) it does once any socket
// wants ids: only the host knows which socket is the other end.
bool needs_credentials(Thread& thread, const OpenFile& file, const HostAddress& to) {
  SocketNames& names = *thread.process.family.sockets;
  if (!names.credentials_wanted.load(std::memory_order_relaxed)) return false;
  std::shared_ptr<const SocketName> name = to.name;
  {
    LockGuard guard(ends_of(file).lock);
    if (!name) {
      if (auto other = ends_of(file).other.lock()) return other->wants_credentials;
      name = ends_of(file).peer;
    }
  }
  if (!name || name->type != SOCK_DGRAM) return true;
  const auto receiver = names.bound_to(*name);
  return receiver && ends_of(*receiver).wants_credentials;
}

// `user` has the address and the ancillary data, as the guest gave them.
std::int64_t send(Thread& thread, const OpenFile& file, const UserBuffers& buffers, const msghdr& user, int flags) {
  if (flags & ~kSendFlags) return -EOPNOTSUPP;
  msghdr message{};
  if (std::int64_t bad = set_pieces(message, buffers, file)) return bad;
  HostAddress to;
  if (user.msg_name && user.msg_namelen) {
    if (type_of(file) == SOCK_DGRAM) {
      auto found = address_for(thread, SOCK_DGRAM, reinterpret_cast<mm::Gva>(user.msg_name), user.msg_namelen);
      if (!found) return -found.error();
      to = *found;
    }
    message.msg_name = &to.bytes;  // other types have a peer: the host reports the error
    message.msg_namelen = to.length;
  }
  auto ticket = ticket_to_send(thread, user, needs_credentials(thread, file, to));
  if (!ticket) return -ticket.error();
  alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int))] = {};
  if (*ticket) {
    const int fd = ticket->get();
    const cmsghdr header{.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    std::memcpy(control, &header, sizeof header);
    std::memcpy(control + CMSG_LEN(0), &fd, sizeof fd);
    message.msg_control = control;
    message.msg_controllen = sizeof control;
  }
  // The guest gets its own SIGPIPE; the host's must not come to the VMM.
  const std::int64_t r = no_room(file, call(thread, SYS_sendmsg, file, message, flags | MSG_NOSIGNAL));
  if (r < 0 && *ticket) (void)thread.process.family.sockets->take(*ticket, false);
  if (r == -EPIPE && !(flags & MSG_NOSIGNAL)) thread.raise(SIGPIPE);
  return r;
}

std::int64_t sys_sendto(Thread& thread, const Args& a) {
  auto file = socket_at(thread, a.i32(0));
  if (!file) return -file.error();
  auto buffers = UserBuffers::one(thread.memory(), a[1], a[2], mm::Access::Read);
  if (!buffers) return -buffers.error();
  msghdr user{};
  user.msg_name = reinterpret_cast<void*>(a[4]);
  user.msg_namelen = static_cast<socklen_t>(std::min<std::uint64_t>(a[5], UINT32_MAX));
  return send(thread, **file, *buffers, user, a.i32(3));
}

std::int64_t send_message(Thread& thread, const OpenFile& file, mm::Gva at, int flags) {
  auto user = read_user<msghdr>(thread.memory(), at);
  if (!user) return -user.error();
  auto buffers = UserBuffers::vector(thread.memory(), reinterpret_cast<mm::Gva>(user->msg_iov), user->msg_iovlen,
                                     mm::Access::Read);
  if (!buffers) return buffers.error() == EINVAL ? -EMSGSIZE : -buffers.error();
  return send(thread, file, *buffers, *user, flags);
}

std::int64_t sys_sendmsg(Thread& thread, const Args& a) {
  auto file = socket_at(thread, a.i32(0));
  return file ? send_message(thread, **file, a[1], a.i32(2)) : -file.error();
}

// Calls one(address of a message, its index) for `count` messages of a struct mmsghdr array, or until more() is false,
// and writes how long each was. Returns how many were done. An error after the first is not reported: the next call
// meets it again.
template <class One, class More>
std::int64_t many_messages(Thread& thread, mm::Gva at, unsigned count, One one, More more) {
  count = std::min<unsigned>(count, IOV_MAX);  // as Linux
  for (unsigned done = 0; done < count; ++done, at += sizeof(mmsghdr)) {
    const std::int64_t r = one(at + offsetof(mmsghdr, msg_hdr), done);
    const std::int64_t bad = r < 0
                                 ? r
                                 : put_user(thread.memory(), at + offsetof(mmsghdr, msg_len), static_cast<unsigned>(r));
    if (bad) return done ? done : bad;
    if (!more()) return done + 1;
  }
  return count;
}

std::int64_t sys_sendmmsg(Thread& thread, const Args& a) {
  auto file = socket_at(thread, a.i32(0));
  if (!file) return -file.error();
  return many_messages(
      thread, a[1], a.u32(2), [&](mm::Gva at, unsigned) { return send_message(thread, **file, at, a.i32(3)); },
      [] { return true; });
}

// `message` has the control buffer, if any. `from`: the sender's address, of length 0 if it has no name.
std::int64_t receive(Thread& thread, const OpenFile& file, const UserBuffers& buffers, msghdr& message,
                     HostAddress& from, int flags) {
  if (std::int64_t bad = set_pieces(message, buffers, file)) return bad;
  message.msg_name = &from.bytes;
  message.msg_namelen = from.length;
  const std::int64_t r = call(thread, SYS_recvmsg, file, message, flags);
  from.length = message.msg_namelen;
  return r;
}

std::int64_t sys_recvfrom(Thread& thread, const Args& a) {
  if (a.i32(3) & ~kReceiveFlags) return -EOPNOTSUPP;
  auto file = socket_at(thread, a.i32(0));
  if (!file) return -file.error();
  auto buffers = UserBuffers::one(thread.memory(), a[1], a[2], mm::Access::Write);
  if (!buffers) return -buffers.error();
  msghdr message{};
  HostAddress from;
  const std::int64_t r = receive(thread, **file, *buffers, message, from, a.i32(3));
  if (r < 0 || !a[4]) return r;
  const std::int64_t bad = from.length ? give_name_at(thread, name_of(thread, from).get(), a[4], a[5])
                                       : put_user(thread.memory(), a[5], socklen_t{0});
  return bad ? bad : r;
}

std::int64_t receive_message(Thread& thread, const OpenFile& file, mm::Gva at, int flags) {
  if (flags & ~kReceiveFlags) return -EOPNOTSUPP;
  auto user = read_user<msghdr>(thread.memory(), at);
  if (!user) return -user.error();
  auto buffers = UserBuffers::vector(thread.memory(), reinterpret_cast<mm::Gva>(user->msg_iov), user->msg_iovlen,
                                     mm::Access::Write);
  if (!buffers) return buffers.error() == EINVAL ? -EMSGSIZE : -buffers.error();
  msghdr message{};
  alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(timespec))];  // a ticket, a time stamp
  message.msg_control = control;  // also if the guest has none: the host must not drop a ticket
  message.msg_controllen = sizeof control;
  if (!user->msg_control) user->msg_controllen = 0;
  HostAddress from;
  const std::int64_t r = receive(thread, file, *buffers, message, from, flags | MSG_CMSG_CLOEXEC);
  if (r < 0) return r;
  user->msg_flags = (message.msg_flags & ~MSG_CMSG_CLOEXEC) | (flags & MSG_CMSG_CLOEXEC);
  give_control(thread, message, *user, flags, ends_of(file).wants_credentials);
  if (user->msg_name && from.length) {
    auto length = give_name(thread, name_of(thread, from).get(), reinterpret_cast<mm::Gva>(user->msg_name),
                            user->msg_namelen);
    if (!length) return -length.error();
    user->msg_namelen = *length;
  } else {
    user->msg_namelen = 0;
  }
  return write_user(thread.memory(), at, *user) ? r : -EFAULT;
}

std::int64_t sys_recvmsg(Thread& thread, const Args& a) {
  auto file = socket_at(thread, a.i32(0));
  return file ? receive_message(thread, **file, a[1], a.i32(2)) : -file.error();
}

std::int64_t sys_recvmmsg(Thread& thread, const Args& a) {
  std::optional<timespec> deadline;
  if (a[4]) {
    auto wait = read_time(thread.memory(), a[4]);
    if (!wait) return -wait.error();
    deadline = deadline_after(CLOCK_MONOTONIC, *wait);
  }
  auto file = socket_at(thread, a.i32(0));
  if (!file) return -file.error();
  const int flags = a.i32(3) & ~MSG_WAITFORONE;
  const auto left = [&] { return time_left(CLOCK_MONOTONIC, *deadline); };
  const std::int64_t r = many_messages(
      thread, a[1], a.u32(2),
      [&](mm::Gva at, unsigned done) {
        return receive_message(thread, **file, at, done && (a.i32(3) & MSG_WAITFORONE) ? flags | MSG_DONTWAIT : flags);
      },
      [&] { return !deadline || !is_zero(left()); });  // looked at after each message only, as on Linux
  if (r > 0 && deadline && put_user(thread.memory(), a[4], left()) != 0) return -EFAULT;
  return r;
}

std::int64_t sys_shutdown(Thread& thread, const Args& a) {
  auto file = socket_at(thread, a.i32(0));
  if (!file) return -file.error();
  return shutdown((*file)->host.get(), a.i32(1)) == 0 ? 0 : -errno;
}

// The size of the value, in all ABIs the same, of an option that is the host socket's to keep and to follow. 0: another
// option.
std::size_t bytes_of_option(int name) {
  switch (name) {
    case SO_RCVTIMEO:
    case SO_SNDTIMEO: return sizeof(timeval);
    case SO_LINGER: return sizeof(linger);
    case SO_SNDBUF:
    case SO_RCVBUF:
    case SO_REUSEADDR:
    case SO_KEEPALIVE:
    case SO_BROADCAST:
    case SO_PRIORITY:
    case SO_RCVLOWAT:
    case SO_TIMESTAMP:
    case SO_TIMESTAMPNS: return sizeof(int);
    default: return 0;
  }
}
// Options of getsockopt(2) alone.
bool only_told(int name) {
  return name == SO_TYPE || name == SO_ERROR || name == SO_DOMAIN || name == SO_PROTOCOL || name == SO_ACCEPTCONN;
}

ucred peer_of(Thread& thread, const OpenFile& file) {
  std::optional<ucred> peer;
  {
    LockGuard guard(ends_of(file).lock);
    peer = ends_of(file).peer_credentials;
  }
  if (!peer) return {0, static_cast<uid_t>(-1), static_cast<gid_t>(-1)};
  return peer->pid ? *peer : thread.process.family.sockets->who_connected(file);
}

std::int64_t sys_getsockopt(Thread& thread, const Args& a) {
  auto file = socket_at(thread, a.i32(0));
  if (!file) return -file.error();
  const int name = a.i32(2);
  if (a.i32(1) != SOL_SOCKET) return -EOPNOTSUPP;  // as unix sockets answer
  if (!bytes_of_option(name) && !only_told(name) && name != SO_PEERCRED && name != SO_PASSCRED) return -ENOPROTOOPT;
  auto room = read_user<socklen_t>(thread.memory(), a[4]);
  if (!room) return -room.error();
  std::array<std::byte, sizeof(timeval)> value{};
  socklen_t length = sizeof value;  // getsockopt(2) sets it to the value's
  if (name == SO_PEERCRED) {
    const ucred peer = peer_of(thread, **file);
    std::memcpy(value.data(), &peer, length = sizeof peer);
  } else if (name == SO_PASSCRED) {
    const int on = ends_of(**file).wants_credentials;
    std::memcpy(value.data(), &on, length = sizeof on);
  } else if (getsockopt((*file)->host.get(), SOL_SOCKET, name, value.data(), &length) != 0) {
    return -errno;
  }
  length = std::min(*room, length);
  if (!thread.memory().write(a[3], std::span(value).first(length))) return -EFAULT;
  return put_user(thread.memory(), a[4], length);
}

std::int64_t sys_setsockopt(Thread& thread, const Args& a) {
  auto file = socket_at(thread, a.i32(0));
  if (!file) return -file.error();
  const int name = a.i32(2);
  if (a.i32(1) != SOL_SOCKET) return -EOPNOTSUPP;
  const int host = (*file)->host.get();
  const std::size_t bytes = name == SO_PASSCRED ? sizeof(int) : bytes_of_option(name);
  if (bytes == 0) return -ENOPROTOOPT;
  if (a[4] < bytes) return -EINVAL;
  std::array<std::byte, sizeof(timeval)> value{};
  if (!thread.memory().read(a[3], std::span(value).first(bytes))) return -EFAULT;
  if (name == SO_PASSCRED) {
    int on;
    std::memcpy(&on, value.data(), sizeof on);
    ends_of(**file).wants_credentials = on != 0;
    if (on) thread.process.family.sockets->credentials_wanted = true;
    return 0;
  }
  const std::uint64_t before = send_buffer(host);
  if (setsockopt(host, SOL_SOCKET, name, value.data(), static_cast<socklen_t>(bytes)) != 0) return -errno;
  const std::uint64_t now = send_buffer(host);
  if (now <= before || !(*file)->charged || (*file)->charged->grow(now - before)) return 0;
  const int half = static_cast<int>(before / 2);  // the kernel doubles it
  ::setsockopt(host, SOL_SOCKET, SO_SNDBUF, &half, sizeof half);
  return -ENOBUFS;
}

}  // namespace

OrErrno<std::shared_ptr<OpenFile>> socket_at(Thread& thread, int fd) {
  auto file = thread.process.files.get(fd);
  if (!file || (file->flags & O_PATH)) return err(EBADF);
  if (!is_socket(*file)) return err(ENOTSOCK);
  return file;
}

std::optional<std::int64_t> SocketEnds::write(Thread& thread, const OpenFile& file, const UserBuffers& buffers,
                                              std::int64_t offset) {
  if (offset != kCurrentOffset || buffers.bytes() == 0 || !needs_credentials(thread, file, {})) return std::nullopt;
  return send(thread, file, buffers, {}, 0);
}

ucred own_credentials(const Thread& thread) {
  const Credentials& own = *thread.credentials();
  return {thread.process.pid, own.user.effective, own.group.effective};
}

int type_of(const OpenFile& file) {
  int type = 0;
  socklen_t length = sizeof type;
  return ::getsockopt(file.host.get(), SOL_SOCKET, SO_TYPE, &type, &length) == 0 ? type : 0;
}

std::shared_ptr<OpenFile> make_socket(HostFd host) {
  auto file = make_file(OpenFile::Kind::Socket, std::move(host), O_RDWR);
  file->operations = std::make_shared<SocketEnds>();
  return file;
}

std::span<const Definition> socket_calls() {
  static const std::vector<Definition> all = [] {
    std::vector<Definition> v{
        {Call::socket, sys_socket},         {Call::socketpair, sys_socketpair}, {Call::sendto, sys_sendto},
        {Call::recvfrom, sys_recvfrom},     {Call::sendmsg, sys_sendmsg},       {Call::recvmsg, sys_recvmsg},
        {Call::sendmmsg, sys_sendmmsg},     {Call::recvmmsg, sys_recvmmsg},     {Call::shutdown, sys_shutdown},
        {Call::getsockopt, sys_getsockopt}, {Call::setsockopt, sys_setsockopt},
    };
    const auto names = socket_name_calls();
    v.insert(v.end(), names.begin(), names.end());
    return v;
  }();
  return all;
}

}  // namespace ramet::vmm
