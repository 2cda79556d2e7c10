// Names of sockets: bind, connect, listen, accept, getsockname, getpeername. See sockets.hpp.
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/sockets/sockets.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

constexpr std::size_t kPath = offsetof(sockaddr_un, sun_path);

HostAddress address_at(const std::string& path) {
  HostAddress address;
  address.bytes.sun_family = AF_UNIX;
  std::memcpy(address.bytes.sun_path, path.data(), path.size());
  address.length = static_cast<socklen_t>(kPath + path.size() + 1);
  return address;
}
const sockaddr* generic(const HostAddress& address) { return reinterpret_cast<const sockaddr*>(&address.bytes); }

using End = std::shared_ptr<const SocketName> SocketEnds::*;
std::shared_ptr<const SocketName> name_at(const OpenFile& file, End end) {
  LockGuard guard(ends_of(file).lock);
  return ends_of(file).*end;
}

SocketNames& names_of(Thread& thread) { return *thread.process.family.sockets; }

// The guest's struct sockaddr, read once, as its family and its name are looked at one after the other. Cut to
// sockaddr_un.
OrErrno<sockaddr_un> read_address(Thread& thread, mm::Gva at, std::uint64_t length) {
  if (length > sizeof(sockaddr_storage)) return err(EINVAL);
  sockaddr_un address{};
  const auto bytes = std::as_writable_bytes(std::span(&address, 1));
  if (!thread.memory().read(at, bytes.first(std::min<std::size_t>(length, bytes.size())))) return err(EFAULT);
  return address;
}

// The path or abstract name in it; empty: it has a family only.
OrErrno<std::string> name_in(const sockaddr_un& address, std::uint64_t length) {
  if (length < sizeof(sa_family_t) || length > sizeof(sockaddr_un)) return err(EINVAL);
  if (address.sun_family != AF_UNIX) return err(EINVAL);
  if (length == kPath) return std::string();
  if (address.sun_path[0] == 0) return std::string(address.sun_path, length - kPath);
  return std::string(address.sun_path, ::strnlen(address.sun_path, length - kPath));
}

std::int64_t sys_bind(Thread& thread, const Args& a) {
  auto file = socket_at(thread, a.i32(0));
  if (!file) return -file.error();
  auto given = read_address(thread, a[1], a[2]);
  if (!given) return -given.error();
  auto name = name_in(*given, a[2]);
  if (!name) return -name.error();
  SocketEnds& ends = ends_of(**file);
  LockGuard guard(ends.lock);
  if (ends.local) return -EINVAL;
  const auto bind = [&](HostFd node) RAMET_REQUIRES(ends.lock) -> std::int64_t {
    auto bound = names_of(thread).bind(*file, *name, std::move(node));
    if (!bound) return -bound.error();
    ends.local = std::move(*bound);
    return 0;
  };
  if (name->empty() || (*name)[0] == 0) return bind(HostFd());
  const std::int64_t r = with_socket_node(thread, *name, bind);
  return r == -EEXIST ? -EADDRINUSE : r;
}

std::int64_t sys_connect(Thread& thread, const Args& a) {
  auto file = socket_at(thread, a.i32(0));
  if (!file) return -file.error();
  HostAddress address;
  auto given = read_address(thread, a[1], a[2]);
  if (!given) return -given.error();
  if (a[2] >= sizeof(sa_family_t) && given->sun_family == AF_UNSPEC) {  // a datagram socket forgets its peer
    address.length = sizeof(sa_family_t);
  } else {
    auto found = address_for(thread, type_of(**file), *given, a[2]);
    if (!found) return -found.error();
    address = *found;
  }
  if (address.name && address.name->type != SOCK_DGRAM) names_of(thread).connects(*file, own_credentials(thread));
  const std::int64_t r = thread.blocking(SYS_connect, static_cast<std::uint64_t>((*file)->host.get()),
                                         reinterpret_cast<std::uint64_t>(&address.bytes), address.length);
  if (r != 0) return restartable(r);
  SocketEnds& ends = ends_of(**file);
  LockGuard guard(ends.lock);
  if (address.name && address.name->type != SOCK_DGRAM) {
    LockGuard listener(address.name->listener_lock);
    ends.peer_credentials = address.name->listener;
  }
  ends.peer = std::move(address.name);
  return 0;
}

std::int64_t sys_listen(Thread& thread, const Args& a) {
  auto file = socket_at(thread, a.i32(0));
  if (!file) return -file.error();
  if (::listen((*file)->host.get(), a.i32(1)) != 0) return -errno;
  SocketEnds& ends = ends_of(**file);
  LockGuard guard(ends.lock);
  ends.peer_credentials = own_credentials(thread);
  if (!ends.local) return 0;
  LockGuard listener(ends.local->listener_lock);
  ends.local->listener = *ends.peer_credentials;
  return 0;
}

std::int64_t accept(Thread& thread, int fd, mm::Gva at, mm::Gva length_at, int flags) {
  if (flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) return -EINVAL;
  auto file = socket_at(thread, fd);
  if (!file) return -file.error();
  auto number = state_of(thread).reserve();  // a full table leaves the connection in the queue
  if (!number) return -number.error();
  const std::int64_t r = thread.blocking(SYS_accept4, static_cast<std::uint64_t>((*file)->host.get()), 0, 0,
                                         static_cast<std::uint64_t>((flags & SOCK_NONBLOCK) | SOCK_CLOEXEC));
  if (r < 0) return restartable(r);
  auto accepted = make_socket(HostFd(static_cast<int>(r)));
  HostAddress address;
  const bool told = ::getpeername(accepted->host.get(), reinterpret_cast<sockaddr*>(&address.bytes), &address.length) ==
                    0;
  const auto peer = told ? name_of(thread, address) : nullptr;
  {
    SocketEnds& ends = ends_of(*accepted);
    auto local = name_at(**file, &SocketEnds::local);
    LockGuard guard(ends.lock);
    ends.local = std::move(local), ends.peer = peer;
    ends.peer_credentials = ucred{};
    ends.wants_credentials = ends_of(**file).wants_credentials.load();
  }
  if (std::int64_t bad = give_name_at(thread, peer.get(), at, length_at)) return bad;
  return std::move(*number).put(std::move(accepted), flags & SOCK_CLOEXEC);
}

std::int64_t sys_accept(Thread& thread, const Args& a) { return accept(thread, a.i32(0), a[1], a[2], 0); }
std::int64_t sys_accept4(Thread& thread, const Args& a) { return accept(thread, a.i32(0), a[1], a[2], a.i32(3)); }

std::int64_t sys_getsockname(Thread& thread, const Args& a) {
  auto file = socket_at(thread, a.i32(0));
  if (!file) return -file.error();
  return a[1] ? give_name_at(thread, name_at(**file, &SocketEnds::local).get(), a[1], a[2]) : -EFAULT;
}

std::int64_t sys_getpeername(Thread& thread, const Args& a) {
  auto file = socket_at(thread, a.i32(0));
  if (!file) return -file.error();
  HostAddress address;
  if (::getpeername((*file)->host.get(), reinterpret_cast<sockaddr*>(&address.bytes), &address.length) != 0)
    return -errno;
  return a[1] ? give_name_at(thread, name_at(**file, &SocketEnds::peer).get(), a[1], a[2]) : -EFAULT;
}

}  // namespace

OrErrno<std::shared_ptr<const SocketName>> SocketNames::bind(const std::shared_ptr<OpenFile>& file, std::string guest,
                                                             HostFd node) {
  struct stat st{};
  if (node && ::fstat(node.get(), &st) != 0) return err(errno);
  const int type = type_of(*file);
  LockGuard guard(lock_);
  const auto gone = [](const auto& entry) { return entry.second.socket.expired(); };
  std::erase_if(abstract_, gone);
  std::erase_if(host_, gone);
  std::erase_if(nodes_, gone);
  while (guest.empty()) {
    std::string next = std::string(1, 0) + fmt::format("{:05x}", ++chosen_ & 0xfffff);
    if (!abstract_.contains({type, next})) guest = std::move(next);
  }
  if (!node && abstract_.contains({type, guest})) return err(EADDRINUSE);
  auto name = std::make_shared<SocketName>();
  name->type = type;
  name->guest = std::move(guest);
  name->node = std::move(node);
  if (std::int64_t bad = place_locked(*file, *name)) return err(static_cast<int>(-bad));
  const Bound bound{file, name};
  if (name->node) nodes_.insert_or_assign({st.st_dev, st.st_ino}, bound);
  else abstract_.insert_or_assign({type, name->guest}, bound);
  host_.insert_or_assign(name->host, bound);
  return name;
}

// Until the file is removed, a process that may search the directory and write to the file can connect to it. As the
// file has no permissions, and listen(2) is still to come, only a process that could take the VMM's own descriptors
// can.
std::int64_t SocketNames::place_locked(const OpenFile& file, SocketName& name) {
  const int directory = places_.directory().get();
  if (directory < 0) return -ENOBUFS;
  const std::string entry = std::to_string(made_++);
  name.host = fd_path(directory) + "/" + entry;
  struct stat before{};
  if (::fstat(file.host.get(), &before) != 0) return -errno;
  // bind(2) cannot be undone: the descriptor's number that openat(2) needs is reserved before, and released for an
  // instant.
  HostFd number(::fcntl(directory, F_DUPFD_CLOEXEC, 0));
  if (!number) return -errno;
  const HostAddress address = address_at(name.host);
  std::int64_t bad = result_of(::fchmod(file.host.get(), 0));  // bind(2) gives the file the socket's mode
  if (!bad) bad = result_of(::bind(file.host.get(), generic(address), address.length));
  if (std::int64_t r = result_of(::fchmod(file.host.get(), before.st_mode & 07777)); !bad) bad = r;
  if (bad) return bad;
  number = HostFd();
  name.inode = HostFd(::openat(directory, entry.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!name.inode) bad = -errno;
  if (::unlinkat(directory, entry.c_str(), 0) != 0 && !bad) bad = -errno;
  if (!bad && ::chmod(fd_path(name.inode.get()).c_str(), S_IRUSR | S_IWUSR) != 0) bad = -errno;
  return bad;
}

template <class Key>
std::shared_ptr<const SocketName> SocketNames::find(const std::map<Key, Bound>& names, const Key& key) {
  auto found = names.find(key);
  return found == names.end() || found->second.socket.expired() ? nullptr : found->second.name;
}
std::shared_ptr<const SocketName> SocketNames::abstract(int type, const std::string& guest) const {
  LockGuard guard(lock_);
  return find(abstract_, {type, guest});
}
std::shared_ptr<const SocketName> SocketNames::at(const struct stat& node) const {
  LockGuard guard(lock_);
  return find(nodes_, Inode{node.st_dev, node.st_ino});
}
std::shared_ptr<const SocketName> SocketNames::on_host(const std::string& host) const {
  LockGuard guard(lock_);
  return find(host_, host);
}

std::shared_ptr<OpenFile> SocketNames::bound_to(const SocketName& name) const {
  LockGuard guard(lock_);
  auto found = host_.find(name.host);
  return found == host_.end() ? nullptr : found->second.socket.lock();
}

OrErrno<HostAddress> address_for(Thread& thread, int type, mm::Gva at, std::uint64_t length) {
  auto given = read_address(thread, at, length);
  return given ? address_for(thread, type, *given, length) : err(given.error());
}

OrErrno<HostAddress> address_for(Thread& thread, int type, const sockaddr_un& given, std::uint64_t length) {
  auto name = name_in(given, length);
  if (!name) return err(name.error());
  if (name->empty()) return err(EINVAL);
  std::shared_ptr<const SocketName> bound;
  if ((*name)[0] == 0) {
    bound = names_of(thread).abstract(type, *name);
  } else {
    auto from = state_of(thread).base(AT_FDCWD, *name);
    if (!from) return err(from.error());
    auto found = state_of(thread).find(*from, *name, true, thread.tid);
    if (!found) return err(found.error());
    if (S_ISSOCK(found->st.st_mode)) {
      if (int error = refused(state_of(thread).restricting(thread.tid).get(), found->st, W_OK)) return err(error);
      bound = names_of(thread).at(found->st);
    }
  }
  if (!bound) return err(ECONNREFUSED);
  if (bound->type != type) return err(EPROTOTYPE);
  HostAddress address = address_at(fd_path(bound->inode.get()));
  address.name = std::move(bound);
  return address;
}

OrErrno<socklen_t> give_name(Thread& thread, const SocketName* name, mm::Gva at, socklen_t room) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socklen_t length = kPath;
  if (name) {
    std::memcpy(address.sun_path, name->guest.data(), name->guest.size());
    length += static_cast<socklen_t>(name->guest.size());
    if (name->node && length < sizeof address) ++length;  // a path with its zero
  }
  const auto bytes = std::as_bytes(std::span(&address, 1)).first(std::min(room, length));
  if (!bytes.empty() && !thread.memory().write(at, bytes)) return err(EFAULT);
  return length;
}

std::int64_t give_name_at(Thread& thread, const SocketName* name, mm::Gva at, mm::Gva length_at) {
  if (!at) return 0;
  auto room = read_user<int>(thread.memory(), length_at);
  if (!room) return -room.error();
  if (*room < 0) return -EINVAL;
  auto length = give_name(thread, name, at, static_cast<socklen_t>(*room));
  return length ? put_user(thread.memory(), length_at, *length) : -length.error();
}

std::shared_ptr<const SocketName> name_of(Thread& thread, const HostAddress& address) {
  if (address.length <= kPath || address.length > sizeof address.bytes) return nullptr;
  return names_of(thread).on_host(
      std::string(address.bytes.sun_path, ::strnlen(address.bytes.sun_path, address.length - kPath)));
}

std::span<const Definition> socket_name_calls() {
  static constexpr Definition kCalls[] = {
      {Call::bind, sys_bind},
      {Call::connect, sys_connect},
      {Call::listen, sys_listen},
      {Call::accept, sys_accept},
      {Call::accept4, sys_accept4},
      {Call::getsockname, sys_getsockname},
      {Call::getpeername, sys_getpeername},
  };
  return kCalls;
}

}  // namespace ramet::vmm
