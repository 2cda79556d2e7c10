// Sockets of a guest: AF_UNIX, among the processes of one family. Each is a socket of the host, but the guest's names
// and descriptors are not the host's: a guest can name no socket of the host, nor one of another guest. Nor can a
// process of the host reach a guest's socket: it is bound in a directory of the VMM, and its file is removed at once.
// What is left is the file's inode, which the host's connect(2) and sendmsg(2) find through a descriptor of the VMM and
// in no other way.
#pragma once

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/linux/files/files.hpp"
#include "vmm/linux/files/operations.hpp"
#include "vmm/linux/files/scratch.hpp"
#include "vmm/linux/syscall.hpp"

namespace ramet::vmm {

class Thread;

inline constexpr unsigned kOverflowId = 65534;  // an unknown user or group (/proc/sys/kernel/overflowuid)

// The name that a socket is bound to.
struct SocketName {
  int type = 0;  // SOCK_STREAM and so on: each has abstract names of its own
  std::string guest;  // sun_path as the guest gave it; abstract ones begin with a zero byte
  std::string host;  // the address that the host reports for the socket: unique, and no path to it
  HostFd inode;  // O_PATH of what the host's socket is bound to: the one way to it
  HostFd node;  // O_PATH of the guest's socket file, whose inode is not used again meanwhile; empty for abstract names
  // The last caller of listen(2). Pid 0: none.
  mutable Mutex listener_lock;  // innermost
  mutable ucred listener RAMET_GUARDED_BY(listener_lock){};
};

// A guest's socket: the names of its two ends, and credentials.
struct SocketEnds : FileOperations {
  // Sends a message with the sender's credentials, if the other end may want them; else the host is to write.
  std::optional<std::int64_t> write(Thread&, const OpenFile&, const UserBuffers&, std::int64_t offset) override
      RAMET_EXCLUDES(lock);

  Mutex lock;  // outermost: held while the socket is bound
  std::shared_ptr<const SocketName> local RAMET_GUARDED_BY(lock), peer RAMET_GUARDED_BY(lock);
  // SO_PEERCRED: the process that made the other end, or called listen(2) there; on a socket that listens, its own. Pid
  // 0: the socket was accepted, see SocketNames::who_connected(). None: there is no peer.
  std::optional<ucred> peer_credentials RAMET_GUARDED_BY(lock);
  std::weak_ptr<SocketEnds> other RAMET_GUARDED_BY(lock);  // the other end, of sockets of socketpair(2) alone
  std::atomic<bool> wants_credentials{false};  // SO_PASSCRED; from any thread
};

// Precondition: is_socket().
inline SocketEnds& ends_of(const OpenFile& file) { return static_cast<SocketEnds&>(*file.operations); }

// The names of a family's sockets, and what is under way from one process to another. Thread-safe.
class SocketNames {
 public:
  // Binds the host's socket of `file`. `guest`: an abstract name, or the path of `node`; empty: one is chosen.
  // Errors: EADDRINUSE, and what bind(2) gives; ENOBUFS where the host has no directory for temporary files. Then
  // nothing has changed.
  OrErrno<std::shared_ptr<const SocketName>> bind(const std::shared_ptr<OpenFile>& file, std::string guest, HostFd node)
      RAMET_EXCLUDES(lock_);
  // By abstract name, by the guest's file, by the host's address. Null: no socket is bound to it now.
  std::shared_ptr<const SocketName> abstract(int type, const std::string& guest) const RAMET_EXCLUDES(lock_);
  std::shared_ptr<const SocketName> at(const struct stat& node) const RAMET_EXCLUDES(lock_);
  std::shared_ptr<const SocketName> on_host(const std::string& host) const RAMET_EXCLUDES(lock_);

  // `caller` is about to connect the socket.
  void connects(const std::shared_ptr<OpenFile>& socket, const ucred& caller) RAMET_EXCLUDES(lock_);
  // The process that connected the other end. Pid 0: that is closed by now, or this host does not tell which socket it
  // is; the ids are the VMM's then, or kOverflowId if any caller had others.
  ucred who_connected(const OpenFile& accepted) const RAMET_EXCLUDES(lock_);

  // Ancillary data: the host passes a ticket, the end of a pipe, that stands for it. The files stay open until the
  // ticket is taken; those of tickets that were lost with a closed socket are closed by the next pass(). Errors:
  // ETOOMANYREFS past kMaxPassed tickets and files, EMFILE.
  struct Cargo {
    std::vector<std::shared_ptr<OpenFile>> files;  // SCM_RIGHTS
    std::optional<ucred> sender;  // SCM_CREDENTIALS
  };
  static constexpr std::size_t kMaxPassed = 1024;
  OrErrno<HostFd> pass(Cargo) RAMET_EXCLUDES(lock_);
  // What the ticket stands for; empty for a descriptor that is no ticket of this family. `keep`: MSG_PEEK.
  Cargo take(const HostFd& ticket, bool keep) RAMET_EXCLUDES(lock_);
  // Set for good when a socket of the family sets SO_PASSCRED: until then no message carries credentials.
  std::atomic<bool> credentials_wanted{false};
  // The socket that is bound to the name; null: it is closed.
  std::shared_ptr<OpenFile> bound_to(const SocketName&) const RAMET_EXCLUDES(lock_);

 private:
  struct Bound {
    std::weak_ptr<OpenFile> socket;  // expired: the name is free
    std::shared_ptr<const SocketName> name;
  };
  struct Passed {
    HostFd other_end;
    Cargo cargo;
  };
  struct Caller {
    std::weak_ptr<OpenFile> socket;
    ucred who{};
  };
  using Inode = std::pair<dev_t, ino_t>;
  // Binds the host's socket. 0 or -errno.
  std::int64_t place_locked(const OpenFile&, SocketName&) RAMET_REQUIRES(lock_);
  template <class Key>
  static std::shared_ptr<const SocketName> find(const std::map<Key, Bound>&, const Key&);

  mutable Mutex lock_;  // innermost
  std::map<std::pair<int, std::string>, Bound> abstract_ RAMET_GUARDED_BY(lock_);
  std::map<std::string, Bound> host_ RAMET_GUARDED_BY(lock_);
  std::map<Inode, Bound> nodes_ RAMET_GUARDED_BY(lock_);
  std::map<ino_t, Passed> passed_ RAMET_GUARDED_BY(lock_);
  std::map<ino_t, Caller> callers_ RAMET_GUARDED_BY(lock_);  // by the host's inode
  bool other_callers_ RAMET_GUARDED_BY(lock_) = false;  // some caller had other ids than the VMM's
  std::size_t many_callers_ RAMET_GUARDED_BY(lock_) = 0;  // callers_ of this size is searched for closed sockets
  ScratchDirectory places_ RAMET_GUARDED_BY(lock_);  // where sockets are bound; empty but for that moment
  std::uint64_t made_ RAMET_GUARDED_BY(lock_) = 0, chosen_ RAMET_GUARDED_BY(lock_) = 0;
};

// The socket at a guest's descriptor. Errors: EBADF, ENOTSOCK.
OrErrno<std::shared_ptr<OpenFile>> socket_at(Thread&, int fd);
std::shared_ptr<OpenFile> make_socket(HostFd);
ucred own_credentials(const Thread&);  // as other processes see it: its pid and effective ids

// An address on the host. One of a socket of the family leads through a descriptor of `name`.
struct HostAddress {
  std::shared_ptr<const SocketName> name;
  sockaddr_un bytes{};
  socklen_t length = sizeof bytes;
};
int type_of(const OpenFile& socket);  // SO_TYPE
// The host's address for a guest's struct sockaddr, given to a socket of that type. Errors: EFAULT, EINVAL, ENOENT and
// others of the path, ECONNREFUSED, EPROTOTYPE.
OrErrno<HostAddress> address_for(Thread&, int type, mm::Gva at, std::uint64_t length);
OrErrno<HostAddress> address_for(Thread&, int type, const sockaddr_un&, std::uint64_t length);
// Writes a name to guest memory as a struct sockaddr, cut to `room` bytes; returns its whole length. Null: the unnamed
// socket. Errors: EFAULT.
OrErrno<socklen_t> give_name(Thread&, const SocketName*, mm::Gva at, socklen_t room);
// The same where *length_at is the room before, and the length afterwards. `at` 0: not wanted. 0 or -errno.
std::int64_t give_name_at(Thread&, const SocketName*, mm::Gva at, mm::Gva length_at);
// The name whose address the host has reported; null: there is none.
std::shared_ptr<const SocketName> name_of(Thread&, const HostAddress&);

// Ancillary data of sendmsg(2): the ticket for what SCM_RIGHTS and SCM_CREDENTIALS say, and for the sender's own ids if
// `credentials`; empty: there is nothing to pass.
OrErrno<HostFd> ticket_to_send(Thread&, const msghdr& user, bool credentials);
// Ancillary data of recvmsg(2): installs the files that `received`, the host's message, has brought, and writes the
// guest's control buffer: a time stamp, credentials if `credentials`, files. Sets msg_controllen and msg_flags of
// `user` to what the guest is to see.
void give_control(Thread&, const msghdr& received, msghdr& user, int flags, bool credentials);

// Parts of the list of calls.
std::span<const Definition> socket_name_calls();  // sockets/names.cpp

}  // namespace ramet::vmm
