// Open files that go through sockets: SCM_RIGHTS. See sockets.hpp.
#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include <cstring>

#include "vmm/linux/files_state.hpp"
#include "vmm/linux/sockets.hpp"
#include "vmm/linux/thread.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

constexpr std::size_t kMaxRights = 253;              // SCM_MAX_FD
constexpr std::size_t kMaxControl = 20 * mm::kPageSize;  // more than what kMaxRights needs

}  // namespace

OrErrno<HostFd> SocketNames::pass(std::vector<std::shared_ptr<OpenFile>> files) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return err(errno);
  HostFd kept(ends[0]), ticket(ends[1]);
  struct stat st{};
  if (::fstat(kept.get(), &st) != 0) return err(errno);
  std::vector<Passed> dropped;  // closed without the lock
  std::lock_guard guard(lock_);
  std::size_t under_way = files.size();
  for (auto p = passed_.begin(); p != passed_.end();) {
    pollfd other{p->second.other_end.get(), 0, 0};
    if (::poll(&other, 1, 0) == 1 && (other.revents & POLLHUP)) {
      dropped.push_back(std::move(p->second));
      p = passed_.erase(p);
    } else {
      under_way += (p++)->second.files.size();
    }
  }
  if (under_way > kMaxPassed) return err(ETOOMANYREFS);
  passed_.insert_or_assign(st.st_ino, Passed{std::move(kept), std::move(files)});
  return ticket;
}

std::vector<std::shared_ptr<OpenFile>> SocketNames::take(const HostFd& ticket, bool keep) {
  struct stat st{};
  if (::fstat(ticket.get(), &st) != 0 || !S_ISFIFO(st.st_mode)) return {};
  std::lock_guard guard(lock_);
  auto found = passed_.find(st.st_ino);
  if (found == passed_.end()) return {};
  if (keep) return found->second.files;
  auto files = std::move(found->second.files);
  passed_.erase(found);
  return files;
}

OrErrno<HostFd> rights_to_send(Thread& t, const msghdr& user) {
  if (!user.msg_control || user.msg_controllen < sizeof(cmsghdr)) return HostFd();
  if (user.msg_controllen > kMaxControl) return err(ENOBUFS);
  std::vector<std::byte> control(user.msg_controllen);
  if (!t.memory().read(reinterpret_cast<mm::Gva>(user.msg_control), control)) return err(EFAULT);
  std::vector<std::shared_ptr<OpenFile>> files;
  cmsghdr header;
  for (std::size_t at = 0; at + sizeof header <= control.size(); at += CMSG_ALIGN(header.cmsg_len)) {
    std::memcpy(&header, control.data() + at, sizeof header);
    if (header.cmsg_len < sizeof header || header.cmsg_len > control.size() - at) return err(EINVAL);
    if (header.cmsg_level != SOL_SOCKET) continue;
    if (header.cmsg_type != SCM_RIGHTS) return err(header.cmsg_type == SCM_CREDENTIALS ? EPERM : EINVAL);
    const std::size_t count = (header.cmsg_len - sizeof header) / sizeof(int);
    if (files.size() + count > kMaxRights) return err(EINVAL);
    for (std::size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, control.data() + at + sizeof header + i * sizeof fd, sizeof fd);
      auto file = t.process.files.get(fd);
      if (!file) return err(EBADF);
      files.push_back(std::move(file));
    }
  }
  if (files.empty()) return HostFd();
  return state_of(t).sockets->pass(std::move(files));
}

std::int64_t give_control(Thread& t, const msghdr& received, msghdr& user, int flags) {
  std::vector<std::shared_ptr<OpenFile>> files;
  std::vector<std::byte> control;  // for the guest
  auto& message = const_cast<msghdr&>(received);  // CMSG_NXTHDR takes one that may be changed
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET) continue;
    if (c->cmsg_type == SO_TIMESTAMP || c->cmsg_type == SO_TIMESTAMPNS) {  // of the real-time clock, which is the guest's too
      const auto* bytes = reinterpret_cast<const std::byte*>(c);
      control.assign(bytes, bytes + c->cmsg_len);
      control.resize(CMSG_ALIGN(control.size()));
    }
    if (c->cmsg_type != SCM_RIGHTS) continue;
    for (std::size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
      int fd;
      std::memcpy(&fd, reinterpret_cast<const std::byte*>(c) + at, sizeof fd);
      const HostFd ticket(fd);
      for (auto& file : state_of(t).sockets->take(ticket, flags & MSG_PEEK)) files.push_back(std::move(file));
    }
  }
  const std::size_t room = std::exchange(user.msg_controllen, 0);
  if (control.size() > room) {
    control.clear();
    user.msg_flags |= MSG_CTRUNC;
  }
  const std::size_t before = control.size();
  std::vector<int> numbers;
  for (auto& file : files) {
    if (before + CMSG_LEN((numbers.size() + 1) * sizeof(int)) > room) break;
    auto number = t.process.files.install(std::move(file), flags & MSG_CMSG_CLOEXEC);
    if (!number) break;
    numbers.push_back(*number);
  }
  if (numbers.size() < files.size()) user.msg_flags |= MSG_CTRUNC;
  std::size_t space = before;
  if (!numbers.empty()) {
    const std::size_t bytes = numbers.size() * sizeof(int);
    control.resize(before + CMSG_LEN(bytes));
    space += CMSG_SPACE(bytes);
    const cmsghdr header{.cmsg_len = CMSG_LEN(bytes), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    std::memcpy(control.data() + before, &header, sizeof header);
    std::memcpy(control.data() + before + CMSG_LEN(0), numbers.data(), bytes);
  }
  if (control.empty()) return 0;
  if (!t.memory().write(reinterpret_cast<mm::Gva>(user.msg_control), control)) {
    // The message itself has come; as on Linux, only the files are lost.
    for (int number : numbers) t.process.files.close(number);
    user.msg_flags |= MSG_CTRUNC;
    return 0;
  }
  user.msg_controllen = std::min(space, room);
  return 0;
}

}  // namespace ramet::vmm
