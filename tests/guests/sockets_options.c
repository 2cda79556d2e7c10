// Sockets: limits of time and other options, and who is at the other end.
#define _GNU_SOURCE
#include <netinet/in.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#include "sockets.h"

// MariaDB's client sets both, and takes a refusal for a server that it cannot reach.
void time_limits(void) {
  int p[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, p) == 0);
  struct timeval limit = {.tv_usec = 20000}, got;
  socklen_t length = sizeof got;
  CHECK(getsockopt(p[0], SOL_SOCKET, SO_RCVTIMEO, &got, &length) == 0 && length == sizeof got);
  CHECK(!got.tv_sec && !got.tv_usec);
  CHECK_ERRNO(setsockopt(p[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(int)), EINVAL);
  CHECK(setsockopt(p[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
  CHECK(setsockopt(p[0], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0);
  CHECK(getsockopt(p[0], SOL_SOCKET, SO_SNDTIMEO, &got, &length) == 0 && !got.tv_sec && got.tv_usec >= 20000);
  char block[4096] = {0};
  CHECK_ERRNO(recv(p[0], block, 1, 0), EAGAIN);
  CHECK_ERRNO(read(p[0], block, 1), EAGAIN);
  ssize_t sent;
  while ((sent = send(p[0], block, sizeof block, 0)) > 0) {}
  CHECK(sent == -1 && errno == EAGAIN);
  limit.tv_usec = 1000000;
  CHECK_ERRNO(setsockopt(p[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), EDOM);
  const int on = 1;
  CHECK_ERRNO(setsockopt(p[0], IPPROTO_IP, 1, &on, sizeof on), EOPNOTSUPP);  // IP_TOS, on a unix socket
  CHECK_ERRNO(getsockopt(p[0], IPPROTO_IP, 1, block, &length), EOPNOTSUPP);
  close(p[0]);
  close(p[1]);
  puts("time limits of sockets");
}

// --- options, and who is at the other end ---

static int option(int s, int name) {
  int value = -1;
  socklen_t length = sizeof value;
  CHECK(getsockopt(s, SOL_SOCKET, name, &value, &length) == 0 && length == sizeof value);
  return value;
}
void options(void) {
  int p[2];
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, p) == 0);
  const struct { int name, value; } ints[] = {{SO_BROADCAST, 1}, {SO_PRIORITY, 3}, {SO_RCVLOWAT, 7}, {SO_TIMESTAMP, 1}};
  for (size_t i = 0; i < sizeof ints / sizeof *ints; ++i) {
    CHECK_ERRNO(setsockopt(p[1], SOL_SOCKET, ints[i].name, &ints[i].value, 3), EINVAL);
    CHECK(setsockopt(p[1], SOL_SOCKET, ints[i].name, &ints[i].value, sizeof(int)) == 0);
    CHECK(option(p[1], ints[i].name) == ints[i].value);
  }
  struct linger linger = {1, 5}, got;
  socklen_t length = sizeof got;
  CHECK_ERRNO(setsockopt(p[0], SOL_SOCKET, SO_LINGER, &linger, sizeof(int)), EINVAL);
  CHECK(setsockopt(p[0], SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
  CHECK(getsockopt(p[0], SOL_SOCKET, SO_LINGER, &got, &length) == 0 && length == sizeof got);
  CHECK(got.l_onoff == 1 && got.l_linger == 5);
  CHECK_ERRNO(setsockopt(p[0], SOL_SOCKET, SO_TYPE, &linger, sizeof(int)), ENOPROTOOPT);
  // A time stamp comes before what else there is, and cuts off what finds no room behind it.
  struct timespec before, after;
  for (int round = 0; round < 3; ++round) {
    union {
      struct cmsghdr header;
      char bytes[CMSG_SPACE(sizeof(struct timeval)) + CMSG_SPACE(sizeof(int))];
    } c;
    char x;
    struct iovec piece = {&x, 1};
    const size_t rooms[] = {sizeof c, CMSG_SPACE(sizeof(struct timeval)), 0};
    struct msghdr m = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = rooms[round]};
    clock_gettime(CLOCK_REALTIME, &before);
    CHECK(give(p[0], &p[0], 1) == 1 && recvmsg(p[1], &m, 0) == 1);
    clock_gettime(CLOCK_REALTIME, &after);
    CHECK(!(m.msg_flags & MSG_CTRUNC) == (round == 0));
    CHECK(m.msg_controllen == rooms[round]);
    if (round == 2) continue;
    struct timeval at;
    CHECK(c.header.cmsg_level == SOL_SOCKET && c.header.cmsg_type == SO_TIMESTAMP);
    CHECK(c.header.cmsg_len == CMSG_LEN(sizeof at));
    memcpy(&at, CMSG_DATA(&c.header), sizeof at);
    const long long us = at.tv_sec * 1000000LL + at.tv_usec;
    CHECK(before.tv_sec * 1000000LL + before.tv_nsec / 1000 <= us);
    CHECK(us <= after.tv_sec * 1000000LL + after.tv_nsec / 1000);
    if (round) continue;
    struct cmsghdr* rights = CMSG_NXTHDR(&m, &c.header);
    CHECK(rights && rights->cmsg_type == SCM_RIGHTS && rights->cmsg_len == CMSG_LEN(sizeof(int)));
    int fd;
    memcpy(&fd, CMSG_DATA(rights), sizeof fd);
    CHECK(close(fd) == 0);
  }
  close(p[0]);
  close(p[1]);
  puts("options");
}

static struct ucred peer_of(int s) {
  struct ucred peer = {0};
  socklen_t length = sizeof peer;
  CHECK(getsockopt(s, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && length == sizeof peer);
  return peer;
}
void credentials(void) {
  int p[2], status;
  for (int type = SOCK_STREAM; type <= SOCK_DGRAM; ++type) {
    CHECK(socketpair(AF_UNIX, type, 0, p) == 0);
    CHECK(peer_of(p[0]).pid == getpid() && peer_of(p[1]).uid == getuid() && peer_of(p[1]).gid == getgid());
    close(p[0]);
    close(p[1]);
  }
  const int l = bound(SOCK_STREAM, "@credentials"), nobody = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK(peer_of(l).pid == 0 && peer_of(l).uid == (uid_t)-1 && peer_of(nobody).gid == (gid_t)-1);
  CHECK_ERRNO(setsockopt(l, SOL_SOCKET, SO_PEERCRED, &status, sizeof status), ENOPROTOOPT);
  CHECK(listen(l, 3) == 0 && peer_of(l).pid == getpid());
  const pid_t parent = getpid();
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    int s = connected(SOCK_STREAM, "@credentials");
    CHECK(peer_of(s).pid == parent && peer_of(s).uid == getuid());
    CHECK(listen(l, 3) == 0);  // the one who did so last is the peer
    s = connected(SOCK_STREAM, "@credentials");
    CHECK(peer_of(s).pid == getpid());
    char x;
    CHECK(read(s, &x, 1) == 0);
    _exit(0);
  }
  int s = accept(l, NULL, NULL);
  CHECK(s >= 0 && close(s) == 0);
  s = accept(l, NULL, NULL);
  const pid_t told = peer_of(s).pid;
  CHECK(child > 0 && (told == child || told == 0));  // 0: a host without unix_diag does not tell
  CHECK(peer_of(s).uid == getuid() && peer_of(s).gid == getgid());
  CHECK(close(s) == 0 && waitpid(child, &status, 0) == child && status == 0);
  const int other = bound(SOCK_DGRAM, "@credentials.dgram"), sender = connected(SOCK_DGRAM, "@credentials.dgram");
  CHECK(peer_of(sender).uid == (uid_t)-1);
  close(l);
  close(nobody);
  close(other);
  close(sender);
  puts("credentials");
}
