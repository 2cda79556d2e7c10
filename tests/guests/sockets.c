// Sockets of the AF_UNIX family: names, connections, datagrams, and open files that go through them. `sockets DIRECTORY`;
// `sockets listen PATH` waits for a connection and says so, `sockets knock PATH` makes one, `sockets refused PATH` must not.
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

struct address {
  struct sockaddr_un un;
  socklen_t length;
};
static struct sockaddr* generic(struct address* a) { return (struct sockaddr*)&a->un; }

// '@' at the beginning: an abstract name.
static struct address address_of(const char* name) {
  struct address a = {.un.sun_family = AF_UNIX};
  const size_t n = strlen(name);
  CHECK(n < sizeof a.un.sun_path);
  memcpy(a.un.sun_path, name, n);
  a.length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
  if (name[0] == '@') a.un.sun_path[0] = 0;
  else ++a.length;
  return a;
}
static int bound(int type, const char* name) {
  struct address a = address_of(name);
  const int s = socket(AF_UNIX, type, 0);
  CHECK(s >= 0 && bind(s, generic(&a), a.length) == 0);
  return s;
}
static int connects(int s, const char* name) {
  struct address a = address_of(name);
  return connect(s, generic(&a), a.length);
}
static int connected(int type, const char* name) {
  const int s = socket(AF_UNIX, type, 0);
  CHECK(s >= 0 && connects(s, name) == 0);
  return s;
}
// As the kernel tells it: abstract names with '@', unnamed as "-".
static const char* told(const struct address* a) {
  static char text[2][120];
  static int turn;
  char* t = text[turn ^= 1];
  const int n = (int)a->length - (int)offsetof(struct sockaddr_un, sun_path);
  CHECK(a->un.sun_family == AF_UNIX);
  if (n <= 0) return "-";
  snprintf(t, sizeof text[0], "%s%.*s", a->un.sun_path[0] ? "" : "@", n - 1,
           a->un.sun_path + !a->un.sun_path[0]);
  return t;
}
static const char* own(int s) {
  struct address a = {.length = sizeof a.un};
  CHECK(getsockname(s, generic(&a), &a.length) == 0);
  return told(&a);
}
static const char* peer(int s) {
  struct address a = {.length = sizeof a.un};
  CHECK(getpeername(s, generic(&a), &a.length) == 0);
  return told(&a);
}

static void streams(void) {
  int l = bound(SOCK_STREAM, "one");
  struct stat st;
  CHECK(lstat("one", &st) == 0 && S_ISSOCK(st.st_mode));
  const int early = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK_ERRNO(connects(early, "one"), ECONNREFUSED);  // nobody listens yet
  CHECK(listen(l, 3) == 0);
  int on;
  socklen_t length = sizeof on;
  CHECK(getsockopt(l, SOL_SOCKET, SO_ACCEPTCONN, &on, &length) == 0 && on == 1);
  CHECK(connects(early, "one") == 0);
  CHECK_ERRNO(connects(early, "one"), EISCONN);
  struct address from = {.length = sizeof from.un};
  int s = accept(l, generic(&from), &from.length);
  CHECK(s >= 0 && !(fcntl(s, F_GETFD) & FD_CLOEXEC));
  printf("stream: %s %s %s %s from %s\n", own(early), peer(early), own(s), peer(s), told(&from));
  CHECK(write(early, "question", 8) == 8);
  char text[32] = {0};
  CHECK(read(s, text, sizeof text) == 8);
  CHECK(send(s, "answer", 6, 0) == 6 && recv(early, text + 10, 20, 0) == 6);
  printf("%s %s\n", text, text + 10);
  close(s);
  CHECK(read(early, text, 1) == 0);
  CHECK_ERRNO(send(early, "x", 1, MSG_NOSIGNAL), EPIPE);
  close(early);

  // A named client, flags of accept4, nothing to accept.
  int c = bound(SOCK_STREAM, "@client");
  CHECK(fcntl(l, F_SETFL, O_NONBLOCK) == 0);
  CHECK_ERRNO(accept(l, NULL, NULL), EAGAIN);
  struct pollfd waiting = {.fd = l, .events = POLLIN};
  CHECK(poll(&waiting, 1, 0) == 0);
  CHECK(connects(c, "./one") == 0 && poll(&waiting, 1, 10000) == 1);
  from.length = offsetof(struct sockaddr_un, sun_path) + 4;  // too little room: cut, and the whole length told
  s = accept4(l, generic(&from), &from.length, SOCK_CLOEXEC | SOCK_NONBLOCK);
  CHECK(s >= 0 && (fcntl(s, F_GETFD) & FD_CLOEXEC) && (fcntl(s, F_GETFL) & O_NONBLOCK));
  CHECK(from.length == offsetof(struct sockaddr_un, sun_path) + 7 && memcmp(from.un.sun_path, "\0cli", 4) == 0);
  CHECK_ERRNO(accept4(l, NULL, NULL, 1), EINVAL);
  printf("named: %s %s\n", own(c), peer(s));
  close(c);
  close(s);

  // The name goes with the file, not with its path; and stays when nobody listens any more.
  CHECK(rename("one", "two") == 0 && symlink("two", "link") == 0);
  c = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK_ERRNO(connects(c, "one"), ENOENT);
  CHECK(connects(c, "link") == 0);
  close(c);
  close(l);
  c = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK_ERRNO(connects(c, "two"), ECONNREFUSED);
  struct address two = address_of("two");
  CHECK_ERRNO(bind(c, generic(&two), two.length), EADDRINUSE);
  CHECK(unlink("two") == 0 && unlink("link") == 0);
  CHECK(bind(c, generic(&two), two.length) == 0);
  struct address three = address_of("three");
  CHECK_ERRNO(bind(c, generic(&three), three.length), EINVAL);
  CHECK_ERRNO(lstat("three", &st), ENOENT);
  CHECK(close(open("file", O_CREAT | O_RDWR, 0644)) == 0);
  CHECK_ERRNO(connects(c, "file"), ECONNREFUSED);
  CHECK_ERRNO(connects(c, "nowhere/x"), ENOENT);
  close(c);
  CHECK_ERRNO(open("two", O_RDWR), ENXIO);
  CHECK(unlink("two") == 0);
}

static void abstract_names(void) {
  int l = bound(SOCK_STREAM, "@name");
  CHECK(listen(l, 1) == 0);
  struct address same = address_of("@name");
  int c = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK_ERRNO(bind(c, generic(&same), same.length), EADDRINUSE);
  CHECK_ERRNO(connects(c, "@nam"), ECONNREFUSED);
  CHECK_ERRNO(connects(c, "@name "), ECONNREFUSED);
  CHECK(connects(c, "@name") == 0);
  const int s = accept(l, NULL, NULL);
  close(l);
  printf("abstract: %s %s\n", own(s), peer(c));
  l = bound(SOCK_STREAM, "@name");  // free again, although connections of its bearer go on
  close(l);
  close(s);
  close(c);
  // The kernel chooses.
  struct address any = {.un.sun_family = AF_UNIX, .length = sizeof(sa_family_t)};
  l = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK(bind(l, generic(&any), any.length) == 0 && listen(l, 1) == 0);
  any.length = sizeof any.un;
  CHECK(getsockname(l, generic(&any), &any.length) == 0 && any.length == 8 && any.un.sun_path[0] == 0);
  c = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK(connect(c, generic(&any), any.length) == 0);
  close(c);
  close(l);
}

static void datagrams(void) {
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

static void wrong(void) {
  CHECK_ERRNO(socket(AF_UNIX, 99, 0), EINVAL);
  CHECK_ERRNO(socket(AF_UNIX, SOCK_STREAM, 99), EPROTONOSUPPORT);
  CHECK_ERRNO(socket(12345, SOCK_STREAM, 0), EAFNOSUPPORT);
  const int s = socket(AF_UNIX, SOCK_STREAM, 0);
  struct address a = address_of("@x");
  CHECK_ERRNO(listen(s, 1), EINVAL);
  CHECK_ERRNO(accept(s, NULL, NULL), EINVAL);
  CHECK_ERRNO(getpeername(s, generic(&a), &a.length), ENOTCONN);
  CHECK_ERRNO(bind(s, generic(&a), 1), EINVAL);
  CHECK_ERRNO(bind(s, generic(&a), sizeof a.un + 1), EINVAL);
  CHECK_ERRNO(bind(s, wild_address, 20), EFAULT);
  CHECK_ERRNO(connect(s, generic(&a), 2), EINVAL);
  a.un.sun_family = AF_INET;
  CHECK_ERRNO(bind(s, generic(&a), a.length), EINVAL);
  CHECK_ERRNO(bind(0, generic(&a), a.length), ENOTSOCK);
  CHECK_ERRNO(bind(-1, generic(&a), a.length), EBADF);
  CHECK_ERRNO(accept(1000, NULL, NULL), EBADF);
  struct address long_name = {.un.sun_family = AF_UNIX, .length = sizeof long_name.un};
  memset(long_name.un.sun_path, 'n', sizeof long_name.un.sun_path);  // no zero at its end
  CHECK(bind(s, generic(&long_name), long_name.length) == 0);
  struct stat st;
  char path[109] = {0};
  memset(path, 'n', 108);
  CHECK(stat(path, &st) == 0 && S_ISSOCK(st.st_mode) && unlink(path) == 0);
  socklen_t negative = (socklen_t)-1;
  CHECK_ERRNO(getsockname(s, generic(&a), &negative), EINVAL);
  CHECK_ERRNO(getsockname(s, generic(&a), wild_address), EFAULT);
  close(s);
  puts("wrong arguments");
}

// --- open files ---

union control {
  struct cmsghdr header;
  char bytes[CMSG_SPACE(300 * sizeof(int))];
};
static ssize_t give(int s, const int* fds, int count) {
  union control c;
  struct iovec piece = {"x", 1};
  struct msghdr m = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = CMSG_SPACE(count * sizeof(int))};
  memset(&c, 0, sizeof c);
  c.header = (struct cmsghdr){.cmsg_len = CMSG_LEN(count * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  memcpy(CMSG_DATA(&c.header), fds, count * sizeof(int));
  return sendmsg(s, &m, 0);
}
// How many came; `room` is for so many. *flags: of recvmsg, and what it gives.
static int take(int s, int* fds, int room, int* flags) {
  union control c;
  char x;
  struct iovec piece = {&x, 1};
  struct msghdr m = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = room ? CMSG_LEN(room * sizeof(int)) : 0};
  CHECK(recvmsg(s, &m, *flags) == 1 && x == 'x');
  *flags = m.msg_flags;
  if (m.msg_controllen == 0) return 0;
  CHECK(c.header.cmsg_level == SOL_SOCKET && c.header.cmsg_type == SCM_RIGHTS);
  const int count = (int)((c.header.cmsg_len - CMSG_LEN(0)) / sizeof(int));
  memcpy(fds, CMSG_DATA(&c.header), count * sizeof(int));
  return count;
}

static void open_files(void) {
  int pair[2], fds[300], flags = 0;
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

  // Looked at, and then taken; too little room; none at all.
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

// --- processes and threads ---

static void* serve(void* listener) {
  const int l = (int)(intptr_t)listener;
  for (int i = 0; i < 40; ++i) {
    const int s = accept(l, NULL, NULL);
    CHECK(s >= 0);
    long sum = 0, value;
    while (recv(s, &value, sizeof value, MSG_WAITALL) == sizeof value && value) sum += value;
    CHECK(send(s, &sum, sizeof sum, 0) == sizeof sum);
    close(s);
  }
  return NULL;
}

static void between_processes(void) {
  const int l = bound(SOCK_STREAM, "served");
  CHECK(listen(l, 2) == 0);  // fewer than there are clients: some wait to be let in
  pthread_t servers[2];
  for (int i = 0; i < 2; ++i) CHECK(pthread_create(&servers[i], NULL, serve, (void*)(intptr_t)l) == 0);
  fflush(stdout);
  for (int child = 0; child < 8; ++child) {
    if (fork()) continue;
    for (int round = 0; round < 10; ++round) {
      const int c = connected(SOCK_STREAM, "served");
      long sum = 0;
      for (long v = 100; v >= 0; --v) CHECK(send(c, &v, sizeof v, MSG_NOSIGNAL) == sizeof v);
      CHECK(recv(c, &sum, sizeof sum, MSG_WAITALL) == sizeof sum && sum == 5050);
      close(c);
    }
    _exit(0);
  }
  int status;
  for (int i = 0; i < 8; ++i) CHECK(wait(&status) > 0 && status == 0);
  for (int i = 0; i < 2; ++i) pthread_join(servers[i], NULL);
  close(l);
  CHECK(unlink("served") == 0);
  puts("80 connections of 8 processes to 2 threads");
}

static void nothing(int sig) { (void)sig; }
static void interrupted(void) {
  const int l = bound(SOCK_STREAM, "@slow");
  CHECK(listen(l, 0) == 0);
  struct sigaction action = {.sa_handler = nothing};
  sigaction(SIGALRM, &action, NULL);
  alarm(1);
  CHECK_ERRNO(accept(l, NULL, NULL), EINTR);
  // Two find room, the third waits.
  int c[3];
  for (int i = 0; i < 3; ++i) c[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
  CHECK(connects(c[0], "@slow") == 0);
  CHECK_ERRNO(connects(c[1], "@slow"), EAGAIN);
  CHECK(fcntl(c[2], F_SETFL, 0) == 0);
  alarm(1);
  CHECK_ERRNO(connects(c[2], "@slow"), EINTR);
  for (int i = 0; i < 3; ++i) close(c[i]);
  close(l);
  puts("interrupted");
}

// MariaDB's client sets both, and takes a refusal for a server that it cannot reach.
static void time_limits(void) {
  int p[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, p) == 0);
  struct timeval limit = {.tv_usec = 20000}, got;
  socklen_t length = sizeof got;
  CHECK(getsockopt(p[0], SOL_SOCKET, SO_RCVTIMEO, &got, &length) == 0 && length == sizeof got && !got.tv_sec && !got.tv_usec);
  CHECK_ERRNO(setsockopt(p[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(int)), EINVAL);
  CHECK(setsockopt(p[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0 && setsockopt(p[0], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0);
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
static void options(void) {
  int p[2];
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, p) == 0);
  const struct { int name, value; } ints[] = {{SO_BROADCAST, 1}, {SO_PRIORITY, 3}, {SO_RCVLOWAT, 7}, {SO_TIMESTAMP, 1}};
  for (size_t i = 0; i < sizeof ints / sizeof *ints; ++i) {
    CHECK_ERRNO(setsockopt(p[1], SOL_SOCKET, ints[i].name, &ints[i].value, 3), EINVAL);
    CHECK(setsockopt(p[1], SOL_SOCKET, ints[i].name, &ints[i].value, sizeof(int)) == 0 && option(p[1], ints[i].name) == ints[i].value);
  }
  struct linger linger = {1, 5}, got;
  socklen_t length = sizeof got;
  CHECK_ERRNO(setsockopt(p[0], SOL_SOCKET, SO_LINGER, &linger, sizeof(int)), EINVAL);
  CHECK(setsockopt(p[0], SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
  CHECK(getsockopt(p[0], SOL_SOCKET, SO_LINGER, &got, &length) == 0 && length == sizeof got && got.l_onoff == 1 && got.l_linger == 5);
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
    CHECK(c.header.cmsg_level == SOL_SOCKET && c.header.cmsg_type == SO_TIMESTAMP && c.header.cmsg_len == CMSG_LEN(sizeof at));
    memcpy(&at, CMSG_DATA(&c.header), sizeof at);
    const long long us = at.tv_sec * 1000000LL + at.tv_usec;
    CHECK(before.tv_sec * 1000000LL + before.tv_nsec / 1000 <= us && us <= after.tv_sec * 1000000LL + after.tv_nsec / 1000);
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
static void credentials(void) {
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

// --- many messages in one call ---

static void many_messages(void) {
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

int main(int count, char** words) {
  CHECK(count >= 2);
  if (count == 3 && !strcmp(words[1], "listen")) {
    char early[100];
    snprintf(early, sizeof early, "%.90s.early", words[2]);
    const int l = bound(SOCK_STREAM, early);
    CHECK(listen(l, 1) == 0 && rename(early, words[2]) == 0);
    CHECK(accept(l, NULL, NULL) >= 0);
    puts("somebody came");
    return 0;
  }
  if (count == 3 && !strcmp(words[1], "knock")) {
    connected(SOCK_STREAM, words[2]);
    return 0;
  }
  if (count == 3 && !strcmp(words[1], "refused")) {
    CHECK_ERRNO(connects(socket(AF_UNIX, SOCK_STREAM, 0), words[2]), ECONNREFUSED);
    CHECK_ERRNO(connects(socket(AF_UNIX, SOCK_DGRAM, 0), words[2]), ECONNREFUSED);
    puts("refused");
    return 0;
  }
  CHECK(chdir(words[1]) == 0);
  streams();
  abstract_names();
  datagrams();
  wrong();
  open_files();
  between_processes();
  interrupted();
  time_limits();
  options();
  credentials();
  many_messages();
  return 0;
}
