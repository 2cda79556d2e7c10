// Sockets: messages with an end, open files that go along, and many messages in one call.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/wait.h>
#include <time.h>

#include "sockets.h"

void datagrams(void) {
  const int a = bound(SOCK_DGRAM, "a"), b = bound(SOCK_DGRAM, "@b");
  struct address to = address_of("@b"), from = {.length = sizeof from.un};
  CHECK(sendto(a, "letter", 6, 0, generic(&to), to.length) == 6);
  char text[16] = {0};
  CHECK(recvfrom(b, text, sizeof text, 0, generic(&from), &from.length) == 6);
  printf("datagram: %s from %s\n", text, told(&from));
  CHECK(sendto(b, "reply", 5, 0, generic(&from), from.length) == 5);
  struct iovec piece = {text, sizeof text};
  struct msghdr m = {.msg_name = &from.un, .msg_namelen = sizeof from.un, .msg_iov = &piece, .msg_iovlen = 1};
  CHECK(recvmsg(a, &m, 0) == 5);
  from.length = m.msg_namelen;
  printf("%.5s from %s\n", text, told(&from));
  const int nobody = socket(AF_UNIX, SOCK_DGRAM, 0);
  CHECK(sendto(nobody, "anon", 4, 0, generic(&to), to.length) == 4);
  from.length = sizeof from.un;
  CHECK(recvfrom(b, text, sizeof text, 0, generic(&from), &from.length) == 4 && from.length == 0);
  CHECK_ERRNO(send(nobody, "x", 1, 0), ENOTCONN);
  CHECK(connects(nobody, "a") == 0 && send(nobody, "x", 1, 0) == 1);
  struct address none = {.un.sun_family = AF_UNSPEC, .length = sizeof(sa_family_t)};
  CHECK(connect(nobody, generic(&none), none.length) == 0);
  CHECK_ERRNO(send(nobody, "x", 1, 0), ENOTCONN);
  close(b);
  CHECK_ERRNO(sendto(nobody, "x", 1, 0, generic(&to), to.length), ECONNREFUSED);
  to = address_of("absent");
  CHECK_ERRNO(sendto(nobody, "x", 1, 0, generic(&to), to.length), ENOENT);
  const int stream = bound(SOCK_STREAM, "stream");
  CHECK(listen(stream, 1) == 0);
  CHECK_ERRNO(connects(nobody, "stream"), EPROTOTYPE);
  CHECK(unlink("stream") == 0);
  const int same_name = bound(SOCK_STREAM, "@both"), other_type = bound(SOCK_DGRAM, "@both");
  close(same_name);
  close(other_type);
  CHECK_ERRNO(sendto(stream, "x", 1, MSG_NOSIGNAL, generic(&to), to.length), EOPNOTSUPP);
  close(stream);
  close(nobody);
  close(a);
  CHECK(unlink("a") == 0);

  const int l = bound(SOCK_SEQPACKET, "@packets");
  CHECK(listen(l, 1) == 0);
  const int c = connected(SOCK_SEQPACKET, "@packets"), s = accept(l, NULL, NULL);
  CHECK(send(c, "one", 3, 0) == 3 && send(c, "three", 5, 0) == 5);
  CHECK(recv(s, text, sizeof text, 0) == 3 && recv(s, text, 2, MSG_TRUNC) == 5);
  puts("packets keep their ends");
  close(c);
  close(s);
  close(l);
}

// --- open files ---

// How many came; `room` is for so many. *flags: of recvmsg, and what it gives.
static int take(int s, int* fds, int room, int* flags) {
  union control c;
  char x;
  struct iovec piece = {&x, 1};
  struct msghdr m = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &c,
                     .msg_controllen = room ? CMSG_LEN(room * sizeof(int)) : 0};
  CHECK(recvmsg(s, &m, *flags) == 1 && x == 'x');
  *flags = m.msg_flags;
  if (m.msg_controllen == 0) return 0;
  CHECK(c.header.cmsg_level == SOL_SOCKET && c.header.cmsg_type == SCM_RIGHTS);
  const int count = (int)((c.header.cmsg_len - CMSG_LEN(0)) / sizeof(int));
  memcpy(fds, CMSG_DATA(&c.header), count * sizeof(int));
  return count;
}

// Looked at, and then taken; too little room; none at all.
static void taken_in_part(int pair[2], int file) {
  int fds[2], flags;
  char text[32];
  CHECK(give(pair[0], &file, 1) == 1);
  flags = MSG_PEEK;
  CHECK(take(pair[1], fds, 1, &flags) == 1 && take(pair[1], fds + 1, 1, (flags = 0, &flags)) == 1);
  CHECK(lseek(fds[0], 1, SEEK_SET) == 1 && lseek(fds[1], 0, SEEK_CUR) == 1);
  close(fds[0]);
  close(fds[1]);
  CHECK(give(pair[0], (int[]){file, file, file}, 3) == 1);
  CHECK(take(pair[1], fds, 2, (flags = 0, &flags)) == 2 && (flags & MSG_CTRUNC));
  close(fds[0]);
  close(fds[1]);
  CHECK(give(pair[0], &file, 1) == 1);
  CHECK(take(pair[1], fds, 0, (flags = 0, &flags)) == 0 && (flags & MSG_CTRUNC));
  // A socket through a socket, with what is in it.
  int inner[2];
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, inner) == 0 && write(inner[0], "inner", 5) == 5);
  CHECK(give(pair[0], &inner[1], 1) == 1);
  close(inner[1]);
  CHECK(take(pair[1], fds, 1, (flags = 0, &flags)) == 1 && read(fds[0], text, 20) == 5);
  close(fds[0]);
  close(inner[0]);
}

static void too_many_and_broken(int pair[2], int file) {
  int fds[300], flags;
  for (int i = 0; i < 254; ++i) fds[i] = file;
  CHECK(give(pair[0], fds, 253) == 1);
  CHECK_ERRNO(give(pair[0], fds, 254), EINVAL);
  CHECK(take(pair[1], fds, 300, (flags = 0, &flags)) == 253);
  for (int i = 0; i < 253; ++i) CHECK(close(fds[i]) == 0);
  CHECK_ERRNO(give(pair[0], (int[]){file, 999}, 2), EBADF);
  struct cmsghdr broken[3] = {{.cmsg_len = 0, .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
  struct iovec piece = {"y", 1};
  struct msghdr m = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = broken, .msg_controllen = sizeof broken};
  const size_t lengths[] = {0, 1, sizeof broken[0] - 1, sizeof broken + 1, SIZE_MAX, SIZE_MAX - 7};
  for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; ++i) {
    broken[0].cmsg_len = lengths[i];
    CHECK_ERRNO(sendmsg(pair[0], &m, 0), EINVAL);
  }
  broken[0].cmsg_len = sizeof broken[0];
  broken[1].cmsg_len = sizeof broken;
  CHECK_ERRNO(sendmsg(pair[0], &m, 0), EINVAL);
  m.msg_control = wild_address;
  CHECK_ERRNO(sendmsg(pair[0], &m, 0), EFAULT);
}

void open_files(void) {
  int pair[2], fds[4], flags = 0;
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  const int file = open("passed", O_CREAT | O_RDWR, 0644);
  CHECK(write(file, "abcdef", 6) == 6 && lseek(file, 2, SEEK_SET) == 2);
  fflush(stdout);
  const pid_t pid = fork();
  if (pid == 0) {  // has none of it but what comes through the socket
    close(file);
    flags = MSG_CMSG_CLOEXEC;
    CHECK(take(pair[1], fds, 4, &flags) == 2 && !(flags & MSG_CTRUNC));
    CHECK((fcntl(fds[0], F_GETFD) & FD_CLOEXEC) && fds[0] != fds[1]);
    char text[4] = {0};
    CHECK(read(fds[0], text, 3) == 3 && strcmp(text, "cde") == 0);
    CHECK(write(fds[1], "from the child", 14) == 14);
    _exit(7);
  }
  int ends[2], status;
  CHECK(pipe(ends) == 0);
  CHECK(give(pair[0], (int[]){file, ends[1]}, 2) == 1);
  close(ends[1]);
  char text[32] = {0};
  CHECK(read(ends[0], text, sizeof text) == 14 && read(ends[0], text + 20, 1) == 0);
  CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7);
  printf("%s; the offset is shared: %ld\n", text, (long)lseek(file, 0, SEEK_CUR));
  taken_in_part(pair, file);
  too_many_and_broken(pair, file);
  // What nobody took is closed with the socket that it waits in: at the latest when the next is sent.
  int other[2];
  CHECK(pipe(ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, other) == 0);
  CHECK(give(other[0], &ends[1], 1) == 1);
  close(ends[1]);
  close(other[0]);
  close(other[1]);
  CHECK(give(pair[0], &file, 1) == 1);
  CHECK(read(ends[0], text, 1) == 0);
  puts("open files pass");
}

// --- many messages in one call ---

void many_messages(void) {
  enum { kMost = 5 };
  int p[2];
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, p) == 0);
  char out[kMost][4] = {"a", "bb", "ccc", "", "e"}, in[kMost][4];
  struct iovec pieces[kMost], room[kMost];
  struct mmsghdr sent[kMost], got[kMost];
  const int lengths[kMost] = {1, 2, 3, 0, 1};
  for (int i = 0; i < kMost; ++i) {
    pieces[i] = (struct iovec){out[i], lengths[i]};
    room[i] = (struct iovec){in[i], sizeof in[i]};
    sent[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &pieces[i], .msg_iovlen = 1}, .msg_len = 99};
    got[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &room[i], .msg_iovlen = 1}, .msg_len = 99};
  }
  CHECK(sendmmsg(p[0], sent, 0, 0) == 0);
  CHECK_ERRNO(recvmmsg(p[1], got, kMost, 0, NULL), EAGAIN);
  CHECK(sendmmsg(p[0], sent, kMost, 0) == kMost);
  CHECK(recvmmsg(p[1], got, 3, 0, NULL) == 3 && recvmmsg(p[1], got + 3, 2, MSG_DONTWAIT, NULL) == 2);
  for (int i = 0; i < kMost; ++i) {
    CHECK((int)sent[i].msg_len == lengths[i] && (int)got[i].msg_len == lengths[i]);
    CHECK(memcmp(in[i], out[i], lengths[i]) == 0 && got[i].msg_hdr.msg_controllen == 0);
  }
  // What fails after the first is for the next call.
  sent[1].msg_hdr.msg_iov = wild_address;
  CHECK(sendmmsg(p[0], sent, kMost, 0) == 1);
  CHECK_ERRNO(sendmmsg(p[0], sent + 1, 1, 0), EFAULT);
  CHECK_ERRNO(sendmmsg(p[0], wild_address, 1, 0), EFAULT);
  CHECK(recvmmsg(p[1], got, kMost, 0, NULL) == 1);
  // One that waits takes what there is; or waits for all, but for a limit that is looked at after each.
  CHECK(fcntl(p[1], F_SETFL, 0) == 0 && sendmmsg(p[0], sent + 2, 3, 0) == 3);
  CHECK(recvmmsg(p[1], got, kMost, MSG_WAITFORONE, NULL) == 3);
  struct timespec limit = {0, 0};
  CHECK(sendmmsg(p[0], sent + 2, 3, 0) == 3 && recvmmsg(p[1], got, kMost, 0, &limit) == 1);
  limit.tv_nsec = -1;
  CHECK_ERRNO(recvmmsg(p[1], got, kMost, 0, &limit), EINVAL);
  limit = (struct timespec){100, 0};
  CHECK(recvmmsg(p[1], got, 2, 0, &limit) == 2 && limit.tv_sec >= 90 && limit.tv_sec <= 100);
  CHECK_ERRNO(sendmmsg(0, sent, 1, 0), ENOTSOCK);
  close(p[0]);
  close(p[1]);
  puts("many messages");
}
