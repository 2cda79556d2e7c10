// SO_PASSCRED and SCM_CREDENTIALS: who has sent a message through a local socket.
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { kUser = 4321, kGroup = 5432 };

static void wants(int s) {
  int on = 1;
  socklen_t length = sizeof on;
  CHECK(setsockopt(s, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
  on = 0;
  CHECK(getsockopt(s, SOL_SOCKET, SO_PASSCRED, &on, &length) == 0 && on == 1);
}

// One message: its length, who sent it (pid -1: nobody says), a descriptor that came along (-1: none).
static ssize_t receives(int s, struct ucred* from, int* fd, int flags) {
  char text[64];
  union {
    struct cmsghdr align;
    char bytes[256];
  } control;
  struct iovec io = {text, sizeof text};
  struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  const ssize_t n = recvmsg(s, &m, flags);
  CHECK(n >= 0 && !(m.msg_flags & MSG_CTRUNC));
  from->pid = -1;
  if (fd) *fd = -1;
  for (struct cmsghdr* c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
    CHECK(c->cmsg_level == SOL_SOCKET);
    if (c->cmsg_type == SCM_CREDENTIALS) {
      CHECK(c->cmsg_len == CMSG_LEN(sizeof *from));
      memcpy(from, CMSG_DATA(c), sizeof *from);
    } else {
      CHECK(c->cmsg_type == SCM_RIGHTS && fd && c->cmsg_len == CMSG_LEN(sizeof(int)));
      memcpy(fd, CMSG_DATA(c), sizeof *fd);
    }
  }
  return n;
}

static int claims(int s, struct ucred who) {
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(struct ucred))];
  } control = {.bytes = {0}};
  struct iovec io = {"c", 1};
  struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  struct cmsghdr* c = CMSG_FIRSTHDR(&m);
  c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_CREDENTIALS, c->cmsg_len = CMSG_LEN(sizeof who);
  memcpy(CMSG_DATA(c), &who, sizeof who);
  return (int)sendmsg(s, &m, 0);
}

static int is_self(struct ucred c) { return c.pid == getpid() && c.uid == getuid() && c.gid == getgid(); }

static void ends_well(pid_t child) {
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void pairs(int type) {
  int s[2], fd;
  struct ucred from;
  CHECK(socketpair(AF_UNIX, type, 0, s) == 0);
  CHECK(write(s[1], "before", 6) == 6 && receives(s[0], &from, &fd, 0) == 6 && from.pid == -1);
  CHECK(write(s[1], "early", 5) == 5);
  wants(s[0]);
  CHECK(receives(s[0], &from, &fd, 0) == 5 && from.pid == 0 && from.uid == 65534 && from.gid == 65534);
  CHECK(write(s[1], "x", 1) == 1 && receives(s[0], &from, &fd, MSG_PEEK) == 1 && is_self(from));
  CHECK(receives(s[0], &from, &fd, 0) == 1 && is_self(from) && fd == -1);
  CHECK(send(s[1], "xy", 2, 0) == 2 && receives(s[0], &from, &fd, 0) == 2 && is_self(from));
  struct iovec two[2] = {{"1", 1}, {"23", 2}};
  CHECK(writev(s[1], two, 2) == 3 && receives(s[0], &from, &fd, 0) == 3 && is_self(from));
  CHECK(write(s[0], "back", 4) == 4 && receives(s[1], &from, &fd, 0) == 4 && from.pid == -1);
  CHECK(claims(s[1], (struct ucred){getpid(), getuid(), getgid()}) == 1 && receives(s[0], &from, &fd, 0) == 1 && is_self(from));
  CHECK_ERRNO(claims(s[1], (struct ucred){getpid(), (uid_t)-1, getgid()}), EINVAL);
  if (getuid()) CHECK_ERRNO(claims(s[1], (struct ucred){getpid(), getuid() + 1, getgid()}), EPERM);
  if (getuid()) CHECK_ERRNO(claims(s[1], (struct ucred){getppid(), getuid(), getgid()}), EPERM);
  pid_t child = fork();
  if (child == 0) {
    if (getuid() == 0) CHECK(setresgid(kGroup, 0, 0) == 0 && setresuid(kUser, 0, 0) == 0);
    CHECK(write(s[1], "child", 5) == 5);
    if (getuid() == kUser) {
      CHECK(claims(s[1], (struct ucred){getpid(), 7, 8}) == 1);  // root may
      CHECK(setresgid(kGroup, kGroup, kGroup) == 0 && setresuid(kUser, kUser, kUser) == 0);
      CHECK_ERRNO(claims(s[1], (struct ucred){getpid(), 0, kGroup}), EPERM);
      CHECK_ERRNO(claims(s[1], (struct ucred){getpid(), kUser, 0}), EPERM);
    }
    _exit(0);
  }
  ends_well(child);
  CHECK(receives(s[0], &from, &fd, 0) == 5 && from.pid == child && from.uid == (getuid() ? getuid() : kUser) && from.gid == (getuid() ? getgid() : kGroup));
  if (getuid() == 0) CHECK(receives(s[0], &from, &fd, 0) == 1 && from.pid == child && from.uid == 7 && from.gid == 8);
  // No room: the rest is lost, and the message says so.
  char byte, little[20];
  struct iovec io = {&byte, 1};
  struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1};
  CHECK(write(s[1], "n", 1) == 1 && recvmsg(s[0], &m, 0) == 1 && (m.msg_flags & MSG_CTRUNC));
  m.msg_control = little, m.msg_controllen = sizeof little;
  CHECK(write(s[1], "n", 1) == 1 && recvmsg(s[0], &m, 0) == 1 && (m.msg_flags & MSG_CTRUNC) && m.msg_controllen == sizeof little);
  CHECK(write(s[1], "n", 1) == 1 && read(s[0], &byte, 1) == 1 && byte == 'n');
  close(s[0]), close(s[1]);
}

static void names(int type) {
  struct sockaddr_un address = {AF_UNIX, "\0ramet credentials"};
  struct ucred from;
  int l = socket(AF_UNIX, type, 0), s = socket(AF_UNIX, type, 0), fd;
  CHECK(bind(l, (void*)&address, sizeof address) == 0);
  wants(l);
  if (type == SOCK_DGRAM) {
    CHECK(sendto(s, "to", 2, 0, (void*)&address, sizeof address) == 2 && receives(l, &from, &fd, 0) == 2 && is_self(from));
    CHECK(connect(s, (void*)&address, sizeof address) == 0);
  } else {
    CHECK(listen(l, 5) == 0 && connect(s, (void*)&address, sizeof address) == 0);
    int a = accept(l, NULL, NULL);
    CHECK(a >= 0);
    close(l);
    l = a;  // which wants what its listener did
  }
  CHECK(write(s, "by name", 7) == 7 && receives(l, &from, &fd, 0) == 7 && is_self(from));
  close(l), close(s);
}

int main(void) {
  pairs(SOCK_STREAM);
  pairs(SOCK_DGRAM);
  pairs(SOCK_SEQPACKET);
  names(SOCK_STREAM);
  names(SOCK_SEQPACKET);
  names(SOCK_DGRAM);
  puts("senders are told");
  return 0;
}
