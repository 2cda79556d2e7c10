// Sockets of a guest: AF_UNIX, among the processes of one family. Each is a socket of the host, but the guest's names
// and descriptors are not the host's: a guest can name no socket of the host, nor one of another guest. Nor does
// anybody on the host reach a guest's: a socket is bound in a directory of ours and its file is removed at once. What
// is left is the file's inode, which the host's connect(2) and sendmsg(2) find through a descriptor of the VMM and in
// no other way.
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

inline constexpr unsigned kOverflowId = 65534;  // who nobody knows, as Linux shows users and groups of elsewhere

// What a socket is bound to.
struct SocketName {
  int type = 0;              // SOCK_STREAM and so on: each has abstract names of its own
  std::string guest;         // sun_path as the guest gave it; abstract ones begin with a zero byte
  std::string host;          // what the host tells as the address of the socket; used once only, and leads nowhere
  HostFd inode;              // O_PATH of what the host's socket is bound to: the one way to it
  HostFd node;  // O_PATH of the file of a name in the file system: its inode is not used again meanwhile
  // Who has called listen(2) last. Pid 0: nobody.
  mutable Mutex listener_lock;  // a leaf
  mutable ucred listener RAMET_GUARDED_BY(listener_lock){};
};

// The two ends as the guest knows them.
struct SocketEnds : FileOperations {
  // A message with the sender's credentials, if the other end may want them.
  std::optional<std::int64_t> write(Thread&, const OpenFile&, const UserBuffers&, std::int64_t offset) override
      RAMET_EXCLUDES(lock);

  Mutex lock;  // outermost: held while the socket is bound
  std::shared_ptr<const SocketName> local RAMET_GUARDED_BY(lock), peer RAMET_GUARDED_BY(lock);
  // SO_PEERCRED: who made the other end, or listened there; of a socket that listens, its own. Pid 0: it was accepted,
  // see SocketNames::who_connected(). Nothing: there is no peer.
  std::optional<ucred> peer_credentials RAMET_GUARDED_BY(lock);
  std::weak_ptr<SocketEnds> other RAMET_GUARDED_BY(lock);  // of socketpair(2)'s; of no others
  std::atomic<bool> wants_credentials{false};  // SO_PASSCRED; from any thread
};

// Precondition: is_socket().
inline SocketEnds& ends_of(const OpenFile& file) { return static_cast<SocketEnds&>(*file.operations); }

// The names of a family's sockets, and what is under way from one process to another. Thread-safe.
class SocketNames {
 public:
  // Binds the host's socket of `file`. `guest`: an abstract name, or what `node` was made for; empty: one is chosen.
  // Errors: EADDRINUSE, and what bind(2) gives; ENOBUFS where the host has no directory for temporary files. Then
  // nothing has changed.
  OrErrno<std::shared_ptr<const SocketName>> bind(const std::shared_ptr<OpenFile>& file, std::string guest, HostFd node)
      RAMET_EXCLUDES(lock_);
  // Null: nobody is bound to it now.
  std::shared_ptr<const SocketName> abstract(int type, const std::string& guest) const RAMET_EXCLUDES(lock_);
  std::shared_ptr<const SocketName> at(const struct stat& node) const RAMET_EXCLUDES(lock_);
  std::shared_ptr<const SocketName> on_host(const std::string& host) const RAMET_EXCLUDES(lock_);

  // Somebody is about to connect the socket.
  void connects(const std::shared_ptr<OpenFile>& socket, const ucred& caller) RAMET_EXCLUDES(lock_);
  // Who did so at the other end. Pid 0: it is closed by now, or this host does not tell which socket that is; the ids
  // are the VMM's then, or nobody's, if any caller had others.
  ucred who_connected(const OpenFile& accepted) const RAMET_EXCLUDES(lock_);

  // Ancillary data: the host passes a ticket, the end of a pipe, that stands for it. The files stay open until the
  // ticket is taken; those of tickets that went down with a socket are closed when the next is made. Errors:
  // ETOOMANYREFS past kMaxPassed tickets and files, EMFILE.
  struct Cargo {
    std::vector<std::shared_ptr<OpenFile>> files;  // SCM_RIGHTS
    std::optional<ucred> sender;  // SCM_CREDENTIALS
  };
  static constexpr std::size_t kMaxPassed = 1024;
  OrErrno<HostFd> pass(Cargo) RAMET_EXCLUDES(lock_);
  // `keep`: MSG_PEEK. Empty for what is not a ticket of this family.
  Cargo take(const HostFd& ticket, bool keep) RAMET_EXCLUDES(lock_);
  // Some socket of the family has asked for credentials (for good): until then no message need carry them.
  std::atomic<bool> credentials_wanted{false};
  // Who is bound to a name; null: nobody now.
  std::shared_ptr<OpenFile> bound_to(const SocketName&) const RAMET_EXCLUDES(lock_);

 private:
  struct Bound {
    std::weak_ptr<OpenFile> socket;  // gone: so is the name
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
  bool other_callers_ RAMET_GUARDED_BY(lock_) = false;  // some had other ids than the VMM's
  std::size_t many_callers_ RAMET_GUARDED_BY(lock_) = 0;  // so many are looked through for those that are gone
  ScratchDirectory places_ RAMET_GUARDED_BY(lock_);  // where sockets are bound; empty but for that moment
  std::uint64_t made_ RAMET_GUARDED_BY(lock_) = 0, chosen_ RAMET_GUARDED_BY(lock_) = 0;
};

// A descriptor of the guest's. Errors: EBADF, ENOTSOCK.
OrErrno<std::shared_ptr<OpenFile>> socket_at(Thread&, int fd);
std::shared_ptr<OpenFile> make_socket(HostFd);
ucred own_credentials(const Thread&);  // what others are told of it: its process and effective ids

// An address of the host's. Where it leads to a socket of the family it does so through a descriptor of `name`.
struct HostAddress {
  std::shared_ptr<const SocketName> name;
  sockaddr_un bytes{};
  socklen_t length = sizeof bytes;
};
int type_of(const OpenFile& socket);  // SO_TYPE
// What a struct sockaddr of the guest's stands for, to a socket of that type. Errors: EFAULT, EINVAL, ENOENT and others
// of the path, ECONNREFUSED, EPROTOTYPE.
OrErrno<HostAddress> address_for(Thread&, int type, mm::Gva at, std::uint64_t length);
OrErrno<HostAddress> address_for(Thread&, int type, const sockaddr_un&, std::uint64_t length);
// Gives a name in the guest's struct sockaddr, cut to `room` bytes; the whole length. Null: the unnamed socket.
OrErrno<socklen_t> give_name(Thread&, const SocketName*, mm::Gva at, socklen_t room);
// The same where the call has a pointer to the length, before and after. `at` 0: not wanted.
std::int64_t give_name_at(Thread&, const SocketName*, mm::Gva at, mm::Gva length_at);
// Whose address the host has told.
std::shared_ptr<const SocketName> name_of(Thread&, const HostAddress&);

// Ancillary data of sendmsg(2): the ticket for what SCM_RIGHTS and SCM_CREDENTIALS say, and for the sender's own ids if
// `credentials`; no descriptor: there was nothing.
OrErrno<HostFd> ticket_to_send(Thread&, const msghdr& user, bool credentials);
// Ancillary data of recvmsg(2): installs what `received`, the host's message, has brought, and fills the guest's
// control buffer: a time stamp, credentials if `credentials`, files; msg_controllen and msg_flags of `user` are what
// the guest is to see.
void give_control(Thread&, const msghdr& received, msghdr& user, int flags, bool credentials);

// Parts of the list of calls.
std::span<const Definition> socket_name_calls();  // sockets/names.cpp

}  // namespace ramet::vmm
