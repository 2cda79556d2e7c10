// Names of sockets: bind, connect, listen, accept, getsockname, getpeername. See sockets.hpp.
#include <errno.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include <fmt/format.h>

#include "vmm/linux/files_state.hpp"
#include "vmm/linux/sockets.hpp"
#include "vmm/linux/thread.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

constexpr std::size_t kPath = offsetof(sockaddr_un, sun_path);

HostAddress address_of(const SocketName& name) {
  HostAddress address;
  address.bytes.sun_family = AF_UNIX;
  std::memcpy(address.bytes.sun_path, name.host.data(), name.host.size());
  address.length = static_cast<socklen_t>(kPath + name.host.size());
  return address;
}
const sockaddr* generic(const HostAddress& address) { return reinterpret_cast<const sockaddr*>(&address.bytes); }

using End = std::shared_ptr<const SocketName> SocketEnds::*;
std::shared_ptr<const SocketName> name_at(const OpenFile& file, End end) {
  std::lock_guard guard(file.socket->lock);
  return file.socket.get()->*end;
}

SocketNames& names_of(Thread& t) { return *state_of(t).sockets; }

// The path or abstract name in the guest's struct sockaddr_un; empty: only the family is there.
OrErrno<std::string> read_name(Thread& t, mm::Gva at, std::uint64_t length) {
  if (length < sizeof(sa_family_t) || length > sizeof(sockaddr_un)) return err(EINVAL);
  sockaddr_un address{};
  if (!t.memory().read(at, std::as_writable_bytes(std::span(&address, 1)).first(length))) return err(EFAULT);
  if (address.sun_family != AF_UNIX) return err(EINVAL);
  if (length == kPath) return std::string();
  if (address.sun_path[0] == 0) return std::string(address.sun_path, length - kPath);
  return std::string(address.sun_path, ::strnlen(address.sun_path, length - kPath));
}

std::int64_t sys_bind(Thread& t, const Args& a) {
  auto file = socket_at(t, a.i32(0));
  if (!file) return -file.error();
  auto name = read_name(t, a[1], a[2]);
  if (!name) return -name.error();
  SocketEnds& ends = *(*file)->socket;
  std::lock_guard guard(ends.lock);
  if (ends.own) return -EINVAL;
  HostFd node;
  if (!name->empty() && (*name)[0] != 0) {
    auto made = make_socket_node(t, *name);
    if (!made) return made.error() == EEXIST ? -EADDRINUSE : -made.error();
    node = std::move(*made);
  }
  auto bound = names_of(t).bind(*file, std::move(*name), std::move(node));
  if (!bound) return -bound.error();
  ends.own = std::move(*bound);
  return 0;
}

std::int64_t sys_connect(Thread& t, const Args& a) {
  auto file = socket_at(t, a.i32(0));
  if (!file) return -file.error();
  HostAddress address;
  auto family = read_user<sa_family_t>(t.memory(), a[1]);
  if (a[2] >= sizeof(sa_family_t) && family && *family == AF_UNSPEC) {  // a datagram socket forgets its peer
    address.length = sizeof(sa_family_t);
  } else {
    auto found = address_for(t, type_of(**file), a[1], a[2]);
    if (!found) return -found.error();
    address = *found;
  }
  const std::int64_t r = t.blocking(SYS_connect, static_cast<std::uint64_t>((*file)->host.get()),
                                    reinterpret_cast<std::uint64_t>(&address.bytes), address.length);
  if (r != 0) return restartable(r);
  auto peer = name_of(t, address);
  std::lock_guard guard((*file)->socket->lock);
  (*file)->socket->peer = std::move(peer);
  return 0;
}

std::int64_t sys_listen(Thread& t, const Args& a) {
  auto file = socket_at(t, a.i32(0));
  return file ? result_of(::listen((*file)->host.get(), a.i32(1))) : -file.error();
}

// A process of the host that has looked up the name is not let in: all of a family's sockets are this process's.
bool is_own(int host) {
  ucred peer{};
  socklen_t length = sizeof peer;
  return ::getsockopt(host, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.pid == ::getpid();
}

std::int64_t accept(Thread& t, int fd, mm::Gva at, mm::Gva length_at, int flags) {
  if (flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) return -EINVAL;
  auto file = socket_at(t, fd);
  if (!file) return -file.error();
  std::shared_ptr<OpenFile> accepted;
  do {
    const std::int64_t r = t.blocking(SYS_accept4, static_cast<std::uint64_t>((*file)->host.get()), 0, 0,
                                      static_cast<std::uint64_t>((flags & SOCK_NONBLOCK) | SOCK_CLOEXEC));
    if (r < 0) return restartable(r);
    accepted = make_socket(HostFd(static_cast<int>(r)));
  } while (!is_own(accepted->host.get()));
  accepted->socket->own = name_at(**file, &SocketEnds::own);
  HostAddress address;
  if (::getpeername(accepted->host.get(), reinterpret_cast<sockaddr*>(&address.bytes), &address.length) == 0)
    accepted->socket->peer = name_of(t, address);
  if (std::int64_t bad = give_name_at(t, accepted->socket->peer.get(), at, length_at)) return bad;
  auto number = t.process.files.install(std::move(accepted), flags & SOCK_CLOEXEC);
  return number ? *number : -number.error();
}

std::int64_t sys_accept(Thread& t, const Args& a) { return accept(t, a.i32(0), a[1], a[2], 0); }
std::int64_t sys_accept4(Thread& t, const Args& a) { return accept(t, a.i32(0), a[1], a[2], a.i32(3)); }

std::int64_t sys_getsockname(Thread& t, const Args& a) {
  auto file = socket_at(t, a.i32(0));
  if (!file) return -file.error();
  return a[1] ? give_name_at(t, name_at(**file, &SocketEnds::own).get(), a[1], a[2]) : -EFAULT;
}

std::int64_t sys_getpeername(Thread& t, const Args& a) {
  auto file = socket_at(t, a.i32(0));
  if (!file) return -file.error();
  HostAddress address;
  if (::getpeername((*file)->host.get(), reinterpret_cast<sockaddr*>(&address.bytes), &address.length) != 0) return -errno;
  return a[1] ? give_name_at(t, name_at(**file, &SocketEnds::peer).get(), a[1], a[2]) : -EFAULT;
}

}  // namespace

OrErrno<std::shared_ptr<const SocketName>> SocketNames::bind(const std::shared_ptr<OpenFile>& file, std::string guest, HostFd node) {
  struct stat st{};
  if (node && ::fstat(node.get(), &st) != 0) return err(errno);
  const int type = type_of(*file);
  std::lock_guard guard(lock_);
  const auto gone = [](const auto& entry) { return entry.second.socket.expired(); };
  std::erase_if(abstract_, gone);
  std::erase_if(host_, gone);
  std::erase_if(nodes_, gone);
  while (guest.empty()) {
    std::string next = std::string(1, 0) + fmt::format("{:05x}", ++chosen_ & 0xfffff);
    if (!abstract_.contains({type, next})) guest = std::move(next);
  }
  if (!node && abstract_.contains({type, guest})) return err(EADDRINUSE);
  if (prefix_.empty()) {
    std::uint64_t random[2];
    if (::getrandom(random, sizeof random, 0) != sizeof random) return err(EAGAIN);
    prefix_ = std::string(1, 0) + fmt::format("ramet-{:016x}{:016x}-", random[0], random[1]);
  }
  auto name = std::make_shared<SocketName>();
  name->type = type;
  name->guest = std::move(guest);
  name->host = prefix_ + std::to_string(made_++);
  name->node = std::move(node);
  const HostAddress address = address_of(*name);
  if (::bind(file->host.get(), generic(address), address.length) != 0) return err(errno);
  const Bound bound{file, name};
  if (name->node) nodes_.insert_or_assign({st.st_dev, st.st_ino}, bound);
  else abstract_.insert_or_assign({type, name->guest}, bound);
  host_.insert_or_assign(name->host, bound);
  return name;
}

template <class Key>
std::shared_ptr<const SocketName> SocketNames::find(const std::map<Key, Bound>& names, const Key& key) {
  auto found = names.find(key);
  return found == names.end() || found->second.socket.expired() ? nullptr : found->second.name;
}
std::shared_ptr<const SocketName> SocketNames::abstract(int type, const std::string& guest) const {
  std::lock_guard guard(lock_);
  return find(abstract_, {type, guest});
}
std::shared_ptr<const SocketName> SocketNames::at(const struct stat& node) const {
  std::lock_guard guard(lock_);
  return find(nodes_, Inode{node.st_dev, node.st_ino});
}
std::shared_ptr<const SocketName> SocketNames::on_host(const std::string& host) const {
  std::lock_guard guard(lock_);
  return find(host_, host);
}

OrErrno<HostAddress> address_for(Thread& t, int type, mm::Gva at, std::uint64_t length) {
  auto name = read_name(t, at, length);
  if (!name) return err(name.error());
  if (name->empty()) return err(EINVAL);
  std::shared_ptr<const SocketName> bound;
  if ((*name)[0] == 0) {
    bound = names_of(t).abstract(type, *name);
  } else {
    auto from = state_of(t).base(AT_FDCWD, *name);
    if (!from) return err(from.error());
    auto found = state_of(t).find(*from, *name, true, t.tid);
    if (!found) return err(found.error());
    if (S_ISSOCK(found->st.st_mode)) bound = names_of(t).at(found->st);
  }
  if (!bound) return err(ECONNREFUSED);
  if (bound->type != type) return err(EPROTOTYPE);
  return address_of(*bound);
}

OrErrno<socklen_t> give_name(Thread& t, const SocketName* name, mm::Gva at, socklen_t room) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socklen_t length = kPath;
  if (name) {
    std::memcpy(address.sun_path, name->guest.data(), name->guest.size());
    length += static_cast<socklen_t>(name->guest.size());
    if (name->node && length < sizeof address) ++length;  // a path with its zero
  }
  const auto bytes = std::as_bytes(std::span(&address, 1)).first(std::min(room, length));
  if (!bytes.empty() && !t.memory().write(at, bytes)) return err(EFAULT);
  return length;
}

std::int64_t give_name_at(Thread& t, const SocketName* name, mm::Gva at, mm::Gva length_at) {
  if (!at) return 0;
  auto room = read_user<int>(t.memory(), length_at);
  if (!room) return -room.error();
  if (*room < 0) return -EINVAL;
  auto length = give_name(t, name, at, static_cast<socklen_t>(*room));
  return length ? put_user(t.memory(), length_at, *length) : -length.error();
}

std::shared_ptr<const SocketName> name_of(Thread& t, const HostAddress& address) {
  if (address.length <= kPath || address.length > sizeof address.bytes) return nullptr;
  return names_of(t).on_host(std::string(address.bytes.sun_path, address.length - kPath));
}

std::span<const Definition> socket_name_calls() {
  static constexpr Definition kCalls[] = {
      {SYS_bind, "bind", sys_bind},       {SYS_connect, "connect", sys_connect},
      {SYS_listen, "listen", sys_listen}, {SYS_accept, "accept", sys_accept},
      {SYS_accept4, "accept4", sys_accept4}, {SYS_getsockname, "getsockname", sys_getsockname},
      {SYS_getpeername, "getpeername", sys_getpeername},
  };
  return kCalls;
}

}  // namespace ramet::vmm
