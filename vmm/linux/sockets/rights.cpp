// Open files and credentials that go through sockets: SCM_RIGHTS, SCM_CREDENTIALS. See sockets.hpp.
#include <errno.h>
#include <limits.h>
#include <linux/capability.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <utility>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/sockets/sockets.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

constexpr std::size_t kMaxRights = 253;              // SCM_MAX_FD
constexpr std::size_t kMaxControlToSend = 20 * mm::kPageSize;  // more than what kMaxRights needs

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

// The sender that SCM_CREDENTIALS names: the process itself, with ids that it has or could take. Errors: EINVAL, EPERM.
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
  if (user.msg_controllen > kMaxControlToSend) return err(ENOBUFS);
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

// Control messages for the guest, as far as it has room for them.
class Control {
 public:
  explicit Control(std::size_t room) : room_(std::min(room, all_.size())) {}
  std::span<const std::byte> bytes() const { return std::span(all_).first(end_); }
  std::size_t padded_size() const { return next_; }
  // Whether a message fits in whole.
  bool has_room(std::size_t data_bytes) const { return room_ - next_ >= CMSG_LEN(data_bytes); }
  // False: the message was cut, or left out. Its length says how much of `data` is there.
  bool add(int type, std::span<const std::byte> data) {
    if (!has_room(0)) return false;
    const std::size_t length = std::min(CMSG_LEN(data.size()), room_ - next_);
    const cmsghdr header{.cmsg_len = length, .cmsg_level = SOL_SOCKET, .cmsg_type = type};
    std::memcpy(all_.data() + next_, &header, sizeof header);
    std::memcpy(all_.data() + next_ + CMSG_LEN(0), data.data(), length - CMSG_LEN(0));
    end_ = next_ + length;
    next_ = std::min(next_ + CMSG_SPACE(data.size()), room_);
    return length == CMSG_LEN(data.size());
  }

 private:
  static constexpr std::size_t kMost = CMSG_SPACE(sizeof(timespec)) + CMSG_SPACE(sizeof(ucred)) +
                                       CMSG_SPACE(kMaxRights * sizeof(int));
  std::array<std::byte, kMost> all_{};
  const std::size_t room_;
  std::size_t end_ = 0, next_ = 0;  // of the last message; with the padding behind it
};

// What the host's message has brought.
struct Received {
  SocketNames::Cargo cargo;
  int stamp_type = 0;  // SO_TIMESTAMP, SO_TIMESTAMPNS
  std::span<const std::byte> stamp;  // in the host's message; empty: none
};

Received unpack(Thread& thread, const msghdr& received, int flags) {
  Received all;
  auto& message = const_cast<msghdr&>(received);  // CMSG_NXTHDR takes one that may be changed
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET) continue;
    const auto data = std::as_bytes(std::span(CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0)));
    if (c->cmsg_type == SO_TIMESTAMP || c->cmsg_type == SO_TIMESTAMPNS) {
      all.stamp_type = c->cmsg_type;  // by the real-time clock, which is the guest's, too
      all.stamp = data;
    }
    if (c->cmsg_type != SCM_RIGHTS) continue;
    for (std::size_t at = 0; at + sizeof(int) <= data.size(); at += sizeof(int)) {
      int fd;
      std::memcpy(&fd, data.data() + at, sizeof fd);
      const HostFd ticket(fd);
      all.cargo = thread.process.family.sockets->take(ticket, flags & MSG_PEEK);  // a message has one ticket
    }
  }
  return all;
}

}  // namespace

void give_control(Thread& thread, const msghdr& received, msghdr& user, int flags, bool credentials) {
  Control control(std::exchange(user.msg_controllen, 0));
  if (received.msg_controllen == 0 && !credentials) return;
  Received brought = unpack(thread, received, flags);
  bool whole = true;
  if (!brought.stamp.empty())
    whole = control.has_room(brought.stamp.size()) && control.add(brought.stamp_type, brought.stamp);
  if (credentials) {
    const ucred sender = brought.cargo.sender.value_or(ucred{0, kOverflowId, kOverflowId});
    whole &= control.add(SCM_CREDENTIALS, std::as_bytes(std::span(&sender, 1)));
  }
  std::array<int, kMaxRights> numbers;
  std::size_t count = 0;
  for (auto& file : brought.cargo.files) {
    if (count == numbers.size() || !control.has_room((count + 1) * sizeof(int))) break;
    auto number = thread.process.files.install(std::move(file), flags & MSG_CMSG_CLOEXEC);
    if (!number) break;
    numbers[count++] = *number;
  }
  const auto installed = std::span(numbers).first(count);
  whole &= count == brought.cargo.files.size();
  if (count > 0) whole &= control.add(SCM_RIGHTS, std::as_bytes(installed));
  if (!whole) user.msg_flags |= MSG_CTRUNC;
  if (control.bytes().empty()) return;
  if (!thread.memory().write(reinterpret_cast<mm::Gva>(user.msg_control), control.bytes())) {
    // The message itself has come; as on Linux, only the files are lost.
    for (int number : installed) thread.process.files.close(number);
    user.msg_flags |= MSG_CTRUNC;
    return;
  }
  user.msg_controllen = control.padded_size();
}

}  // namespace ramet::vmm
