// Open files and credentials that go through sockets: SCM_RIGHTS, SCM_CREDENTIALS. See sockets.hpp.
#include <errno.h>
#include <limits.h>
#include <linux/capability.h>
#include <poll.h>
#include <unistd.h>

#include <cstring>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/sockets/sockets.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

constexpr std::size_t kMaxRights = 253;              // SCM_MAX_FD
constexpr std::size_t kMaxControl = 20 * mm::kPageSize;  // more than what kMaxRights needs

}  // namespace

OrErrno<HostFd> SocketNames::pass(Cargo cargo) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return err(errno);
  HostFd kept(ends[0]), ticket(ends[1]);
  struct stat st{};
  if (::fstat(kept.get(), &st) != 0) return err(errno);
  std::vector<Passed> dropped;  // closed without the lock
  LockGuard guard(lock_);
  std::size_t under_way = 1 + cargo.files.size();
  for (auto p = passed_.begin(); p != passed_.end();) {
    pollfd other{p->second.other_end.get(), 0, 0};
    if (::poll(&other, 1, 0) == 1 && (other.revents & POLLHUP)) {
      dropped.push_back(std::move(p->second));
      p = passed_.erase(p);
    } else {
      under_way += 1 + (p++)->second.cargo.files.size();
    }
  }
  if (under_way > kMaxPassed) return err(ETOOMANYREFS);
  passed_.insert_or_assign(st.st_ino, Passed{std::move(kept), std::move(cargo)});
  return ticket;
}

SocketNames::Cargo SocketNames::take(const HostFd& ticket, bool keep) {
  struct stat st{};
  if (::fstat(ticket.get(), &st) != 0 || !S_ISFIFO(st.st_mode)) return {};
  LockGuard guard(lock_);
  auto found = passed_.find(st.st_ino);
  if (found == passed_.end()) return {};
  if (keep) return found->second.cargo;
  auto cargo = std::move(found->second.cargo);
  passed_.erase(found);
  return cargo;
}

namespace {

// A process may say that it is itself, with any of its ids; others are for those who could take them.
OrErrno<ucred> credentials_of(Thread& thread, std::span<const std::byte> bytes) {
  ucred who;
  if (bytes.size() != sizeof who) return err(EINVAL);
  std::memcpy(&who, bytes.data(), sizeof who);
  const Credentials& own = *thread.credentials();
  if (who.uid == UINT_MAX || who.gid == UINT_MAX) return err(EINVAL);
  const bool user = own.user.any(who.uid) || own.may(CAP_SETUID), group = own.group.any(who.gid) || own.may(CAP_SETGID);
  if (who.pid != thread.process.pid || !user || !group) return err(EPERM);
  return who;
}

}  // namespace

OrErrno<HostFd> ticket_to_send(Thread& thread, const msghdr& user, bool credentials) {
  SocketNames::Cargo cargo;
  const Credentials& own = *thread.credentials();
  if (credentials) cargo.sender = ucred{thread.process.pid, own.user.real, own.group.real};
  const auto ticket = [&]() -> OrErrno<HostFd> {
    if (cargo.files.empty() && !cargo.sender) return HostFd();
    return thread.process.family.sockets->pass(std::move(cargo));
  };
  if (!user.msg_control || user.msg_controllen < sizeof(cmsghdr)) return ticket();
  if (user.msg_controllen > kMaxControl) return err(ENOBUFS);
  std::vector<std::byte> control(user.msg_controllen);
  if (!thread.memory().read(reinterpret_cast<mm::Gva>(user.msg_control), control)) return err(EFAULT);
  auto& files = cargo.files;
  cmsghdr header;
  for (std::size_t at = 0; at + sizeof header <= control.size(); at += CMSG_ALIGN(header.cmsg_len)) {
    std::memcpy(&header, control.data() + at, sizeof header);
    if (header.cmsg_len < sizeof header || header.cmsg_len > control.size() - at) return err(EINVAL);
    if (header.cmsg_level != SOL_SOCKET) continue;
    if (header.cmsg_type == SCM_CREDENTIALS) {
      auto who = credentials_of(thread,
                                std::span(control).subspan(at + sizeof header, header.cmsg_len - sizeof header));
      if (!who) return err(who.error());
      cargo.sender = *who;
      continue;
    }
    if (header.cmsg_type != SCM_RIGHTS) return err(EINVAL);
    const std::size_t count = (header.cmsg_len - sizeof header) / sizeof(int);
    if (files.size() + count > kMaxRights) return err(EINVAL);
    for (std::size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, control.data() + at + sizeof header + i * sizeof fd, sizeof fd);
      auto file = thread.process.files.get(fd);
      if (!file) return err(EBADF);
      files.push_back(std::move(file));
    }
  }
  return ticket();
}

namespace {

// What the host's message has brought.
struct Received {
  std::vector<std::shared_ptr<OpenFile>> files;
  std::vector<std::byte> time_stamp;  // as the guest is to have it, padded
  ucred sender{0, kOverflowId, kOverflowId};
};

Received unpack(Thread& thread, const msghdr& received, int flags) {
  Received all;
  auto& message = const_cast<msghdr&>(received);  // CMSG_NXTHDR takes one that may be changed
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET) continue;
    if (c->cmsg_type == SO_TIMESTAMP ||
        c->cmsg_type == SO_TIMESTAMPNS) {  // of the real-time clock, which is the guest's too
      const auto* bytes = reinterpret_cast<const std::byte*>(c);
      all.time_stamp.assign(bytes, bytes + c->cmsg_len);
      all.time_stamp.resize(CMSG_ALIGN(all.time_stamp.size()));
    }
    if (c->cmsg_type != SCM_RIGHTS) continue;
    for (std::size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
      int fd;
      std::memcpy(&fd, reinterpret_cast<const std::byte*>(c) + at, sizeof fd);
      const HostFd ticket(fd);
      auto cargo = thread.process.family.sockets->take(ticket, flags & MSG_PEEK);
      for (auto& file : cargo.files) all.files.push_back(std::move(file));
      if (cargo.sender) all.sender = *cargo.sender;
    }
  }
  return all;
}

// As much of it as there is room for, as Linux. False: not all of it.
bool add_credentials(std::vector<std::byte>& control, std::size_t room, const ucred& sender) {
  if (room - control.size() < sizeof(cmsghdr)) return false;
  const std::size_t at = control.size(), length = std::min(CMSG_LEN(sizeof sender), room - at);
  const cmsghdr header{.cmsg_len = length, .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_CREDENTIALS};
  control.resize(std::min(at + CMSG_SPACE(sizeof sender), room));
  std::memcpy(control.data() + at, &header, sizeof header);
  std::memcpy(control.data() + at + CMSG_LEN(0), &sender, length - CMSG_LEN(0));
  return length == CMSG_LEN(sizeof sender);
}

void add_rights(std::vector<std::byte>& control, std::span<const int> numbers) {
  const std::size_t at = control.size(), bytes = numbers.size_bytes();
  const cmsghdr header{.cmsg_len = CMSG_LEN(bytes), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  control.resize(at + CMSG_LEN(bytes));
  std::memcpy(control.data() + at, &header, sizeof header);
  std::memcpy(control.data() + at + CMSG_LEN(0), numbers.data(), bytes);
}

}  // namespace

std::int64_t give_control(Thread& thread, const msghdr& received, msghdr& user, int flags, bool credentials) {
  Received brought = unpack(thread, received, flags);
  std::vector<std::byte>& control = brought.time_stamp;  // for the guest
  const std::size_t room = std::exchange(user.msg_controllen, 0);
  if (control.size() > room) {
    control.clear();
    user.msg_flags |= MSG_CTRUNC;
  }
  if (credentials && !add_credentials(control, room, brought.sender)) user.msg_flags |= MSG_CTRUNC;
  std::vector<int> numbers;
  for (auto& file : brought.files) {
    if (control.size() + CMSG_LEN((numbers.size() + 1) * sizeof(int)) > room) break;
    auto number = thread.process.files.install(std::move(file), flags & MSG_CMSG_CLOEXEC);
    if (!number) break;
    numbers.push_back(*number);
  }
  if (numbers.size() < brought.files.size()) user.msg_flags |= MSG_CTRUNC;
  const std::size_t space = control.size() + (numbers.empty() ? 0 : CMSG_SPACE(numbers.size() * sizeof(int)));
  if (!numbers.empty()) add_rights(control, numbers);
  if (control.empty()) return 0;
  if (!thread.memory().write(reinterpret_cast<mm::Gva>(user.msg_control), control)) {
    // The message itself has come; as on Linux, only the files are lost.
    for (int number : numbers) thread.process.files.close(number);
    user.msg_flags |= MSG_CTRUNC;
    return 0;
  }
  user.msg_controllen = std::min(space, room);
  return 0;
}

}  // namespace ramet::vmm
