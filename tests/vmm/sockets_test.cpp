// Sockets of a guest, and what the host's other processes can do to them: nothing.
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/vmm/files_guest.hpp"

namespace ramet::vmm {
namespace {

std::uint64_t word(std::int64_t v) { return static_cast<std::uint64_t>(v); }

struct Address {
  sockaddr_un un{};
  socklen_t length = 0;
};
Address address_of(std::string_view path) {
  Address a;
  a.un.sun_family = AF_UNIX;
  std::memcpy(a.un.sun_path, path.data(), path.size());
  a.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  return a;
}
const std::string kAbstract("\0name", 5);

std::int64_t with_address(Guest& g, const char* call, std::int64_t fd, std::string_view name) {
  const Address a = address_of(name);
  return g.call(call, {word(fd), g.put_object(a.un), a.length});
}
std::int64_t bound(Guest& g, int type, std::string_view name) {
  const std::int64_t fd = g.call("socket", {AF_UNIX, word(type), 0});
  EXPECT_GE(fd, 0);
  EXPECT_EQ(with_address(g, "bind", fd, name), 0);
  return fd;
}

// The address that the host's own list of sockets shows for one of the guest's; it begins with @ if it is abstract.
std::string listed(Guest& g, std::int64_t fd) {
  struct stat st{};
  EXPECT_EQ(::fstat(g.process->files.get(static_cast<int>(fd))->host.get(), &st), 0);
  std::ifstream list("/proc/net/unix");
  std::string line;
  while (std::getline(list, line)) {
    const auto at = line.find(" " + std::to_string(st.st_ino) + " ");
    if (at != line.npos) return line.substr(line.find(' ', at + 1) + 1);
  }
  return {};
}

// Another process tries to connect to the socket and to send to it by each address that it may have, a hundred times:
// how often something went through.
int others_reach(int type, const std::string& shown) {
  std::vector<std::string> names{shown};
  if (shown.starts_with("@")) names.push_back(std::string(1, 0) + shown.substr(1));
  if (shown.starts_with("/proc/self/")) names.push_back("/proc/" + std::to_string(::getpid()) + shown.substr(10));
  const pid_t child = ::fork();
  if (child == 0) {
    int through = 0;
    for (int i = 0; i < 100; ++i)
      for (const auto& name : names) {
        Address a = address_of(name);
        const int s = ::socket(AF_UNIX, type | SOCK_NONBLOCK, 0);
        if (type == SOCK_DGRAM) through += ::sendto(s, "bad", 3, 0, reinterpret_cast<sockaddr*>(&a.un), a.length) == 3;
        through += ::connect(s, reinterpret_cast<sockaddr*>(&a.un), a.length) == 0;
        ::close(s);
      }
    ::_exit(std::min(through, 100));
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WEXITSTATUS(status);
}

bool readable(Guest& g, std::int64_t fd) {
  const std::uint64_t at = g.put_object(pollfd{static_cast<int>(fd), POLLIN, 0});
  return g.call("poll", {at, 1, 0}) != 0;
}

TEST(Sockets, NobodyOnTheHostSendsToADatagramSocket) {
  Guest g({});
  const std::int64_t fd = bound(g, SOCK_DGRAM, kAbstract), other = bound(g, SOCK_DGRAM, std::string("\0other", 6));
  const std::string shown = listed(g, fd);
  ASSERT_NE(shown, "");
  EXPECT_EQ(others_reach(SOCK_DGRAM, shown), 0) << shown;
  EXPECT_FALSE(readable(g, fd));
  EXPECT_EQ(g.call("recvfrom", {word(fd), g.room(8), 8, MSG_DONTWAIT, 0, 0}), -EAGAIN);
  // The queue is as empty as before: the family's own message goes through at once, and tells who sent it.
  ASSERT_EQ(with_address(g, "connect", other, kAbstract), 0);
  const std::uint64_t text = g.put("own");
  EXPECT_EQ(g.call("sendto", {word(other), text, 3, MSG_DONTWAIT, 0, 0}), 3);
  EXPECT_TRUE(readable(g, fd));
  const std::uint64_t at = g.room(8), from = g.room(sizeof(sockaddr_un)),
                      length = g.put_object(socklen_t{sizeof(sockaddr_un)});
  EXPECT_EQ(g.call("recvfrom", {word(fd), at, 8, MSG_DONTWAIT, from, length}), 3);
  EXPECT_EQ(g.bytes(at, 3), "own");
  EXPECT_EQ(g.get<socklen_t>(length), offsetof(sockaddr_un, sun_path) + 6);
  EXPECT_EQ(g.bytes(from + offsetof(sockaddr_un, sun_path), 6), std::string("\0other", 6));
}

TEST(Sockets, NobodyOnTheHostConnectsToAListeningSocket) {
  for (int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    Guest g({});
    const std::int64_t fd = bound(g, type | SOCK_NONBLOCK, kAbstract);
    ASSERT_EQ(g.call("listen", {word(fd), 1}), 0);
    const std::string shown = listed(g, fd);
    ASSERT_NE(shown, "");
    EXPECT_EQ(others_reach(type, shown), 0) << shown;
    EXPECT_FALSE(readable(g, fd)) << "accept(2) would wait after poll(2) had said that it does not";
    const std::int64_t own = g.call("socket", {AF_UNIX, word(type | SOCK_NONBLOCK), 0});
    EXPECT_EQ(with_address(g, "connect", own, kAbstract), 0);
    EXPECT_TRUE(readable(g, fd));
    EXPECT_GE(g.call("accept4", {word(fd), 0, 0, 0}), 0);
  }
}

TEST(Sockets, WhatASocketIsBoundToLeavesNothingBehind) {
  Scratch temporary;
  ::setenv("TMPDIR", temporary.path.c_str(), 1);
  {
    Guest g({});
    const std::int64_t fd = bound(g, SOCK_DGRAM, kAbstract);
    for (const auto& entry : fs::recursive_directory_iterator(temporary.path))
      EXPECT_TRUE(entry.is_directory()) << entry.path();
    struct stat st{};
    ASSERT_EQ(::fstat(g.process->files.get(static_cast<int>(fd))->host.get(), &st), 0);
    EXPECT_EQ(st.st_mode & 0777u, 0777u);
  }
  EXPECT_TRUE(fs::is_empty(temporary.path));
  ::unsetenv("TMPDIR");
}

TEST(Sockets, WithoutADirectoryForTemporaryFilesASocketGetsNoName) {
  Scratch shared;
  ::setenv("TMPDIR", "/proc", 1);  // a directory in which nothing can be made
  Guest g({{.host = shared.path, .guest = "/w", .writable = true}});
  const std::int64_t fd = g.call("socket", {AF_UNIX, SOCK_STREAM, 0});
  EXPECT_EQ(with_address(g, "bind", fd, kAbstract), -ENOBUFS);
  EXPECT_EQ(with_address(g, "bind", fd, "/w/socket"), -ENOBUFS);
  EXPECT_FALSE(fs::exists(shared.path / "socket")) << "a bind that failed leaves its file";
  ::unsetenv("TMPDIR");
}

TEST(Sockets, ABindThatFailsLeavesNoFile) {
#ifdef RAMET_SANITIZED
  GTEST_SKIP() << "UndefinedBehaviorSanitizer needs descriptors of its own to look at an object";
#endif
  Scratch shared;
  Guest g({{.host = shared.path, .guest = "/w", .writable = true}});
  const std::int64_t fd = g.call("socket", {AF_UNIX, SOCK_STREAM, 0}),
                     other = g.call("socket", {AF_UNIX, SOCK_STREAM, 0});
  // Only one number of the host's is left: the file can be made and opened, and the socket cannot be bound.
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  (void)bound(g, SOCK_STREAM, kAbstract);  // what is made once is there
  HostFd next(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  for (rlim_t spare : {rlim_t{1}, rlim_t{2}, rlim_t{3}, rlim_t{4}}) {
    const rlimit few{static_cast<rlim_t>(next.get()) + spare, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
    const std::int64_t r = with_address(g, "bind", fd, "/w/socket");
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    if (r == 0) break;
    EXPECT_EQ(r, -EMFILE);
    EXPECT_FALSE(fs::exists(shared.path / "socket")) << spare << " numbers were left";
  }
  EXPECT_TRUE(fs::exists(shared.path / "socket")) << "it was never bound";
  EXPECT_EQ(with_address(g, "bind", other, "/w/socket"), -EADDRINUSE);
  EXPECT_TRUE(fs::exists(shared.path / "socket")) << "a bind that failed took another socket's file away";
}

TEST(Sockets, WhoHasConnectedIsToldUntilThatEndIsClosed) {
  Guest g({});
  const std::int64_t fd = bound(g, SOCK_STREAM, kAbstract), own = g.call("socket", {AF_UNIX, SOCK_STREAM, 0});
  ASSERT_EQ(g.call("listen", {word(fd), 4}), 0);
  ASSERT_EQ(with_address(g, "connect", own, kAbstract), 0);
  const std::int64_t accepted = g.call("accept4", {word(fd), 0, 0, 0});
  ASSERT_GE(accepted, 0);
  const auto peer = [&] {
    const std::uint64_t at = g.put_object(ucred{-1, 0, 0}), length = g.put_object(socklen_t{sizeof(ucred)});
    EXPECT_EQ(g.call("getsockopt", {word(accepted), SOL_SOCKET, SO_PEERCRED, at, length}), 0);
    EXPECT_EQ(g.get<socklen_t>(length), sizeof(ucred));
    EXPECT_EQ(g.get<ucred>(at).uid, ::getuid());
    return g.get<ucred>(at).pid;
  };
  if (peer() == 0) GTEST_SKIP() << "this host has no unix_diag";
  EXPECT_EQ(peer(), g.process->pid);
  EXPECT_EQ(g.call("close", {word(own)}), 0);
  EXPECT_EQ(peer(), 0);
}

TEST(Sockets, AFullTableLeavesTheConnectionInTheQueue) {
  Guest g({});
  const std::int64_t fd = bound(g, SOCK_STREAM | SOCK_NONBLOCK, kAbstract);
  ASSERT_EQ(g.call("listen", {word(fd), 4}), 0);
  const std::int64_t own = g.call("socket", {AF_UNIX, SOCK_STREAM, 0});
  ASSERT_EQ(with_address(g, "connect", own, kAbstract), 0);
  const rlim64_t before = g.limit_files(static_cast<rlim64_t>(own) + 1);
  EXPECT_EQ(g.call("accept4", {word(fd), 0, 0, 0}), -EMFILE);
  g.limit_files(before);
  EXPECT_EQ(g.call("accept4", {word(fd), 0, 0, 0}), own + 1);
  EXPECT_EQ(g.call("accept4", {word(fd), 0, 0, 0}), -EAGAIN);
  EXPECT_EQ(g.call("dup", {word(fd)}), own + 2) << "an accept that failed keeps its number";
}

TEST(Sockets, FilesThatFindNoRoomInTheControlBufferAreLostAndTheMessageIsNot) {
  Guest g({});
  const std::uint64_t pair = g.room(8);
  ASSERT_EQ(g.call("socketpair", {AF_UNIX, SOCK_DGRAM, 0, pair}), 0);
  const auto ends = g.get<std::array<int, 2>>(pair);
  std::array<std::byte, CMSG_LEN(sizeof(int))> rights{};
  const cmsghdr header{.cmsg_len = rights.size(), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  std::memcpy(rights.data(), &header, sizeof header);
  std::memcpy(rights.data() + CMSG_LEN(0), &ends[0], sizeof(int));
  const auto message = [&](std::uint64_t control) {
    msghdr m{};
    const std::uint64_t text = g.put("text");
    m.msg_iov = reinterpret_cast<iovec*>(g.put_object(iovec{reinterpret_cast<void*>(text), 4}));
    m.msg_iovlen = 1;
    m.msg_control = reinterpret_cast<void*>(control);
    m.msg_controllen = CMSG_LEN(sizeof(int));
    return g.put_object(m);
  };
  ASSERT_EQ(g.call("sendmsg", {word(ends[0]), message(g.put_object(rights)), 0}), 4);
  const std::uint64_t received = message(0x1000);  // where nothing is mapped
  EXPECT_EQ(g.call("recvmsg", {word(ends[1]), received, MSG_DONTWAIT}), 4);
  EXPECT_EQ(g.get<msghdr>(received).msg_flags, MSG_CTRUNC);
  EXPECT_EQ(g.get<msghdr>(received).msg_controllen, 0u);
  EXPECT_EQ(g.call("dup", {word(ends[0])}), ends[1] + 1) << "the file that was lost keeps its number";
}

}  // namespace
}  // namespace ramet::vmm
