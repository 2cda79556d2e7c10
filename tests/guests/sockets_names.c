// Sockets: their names, who connects by them, and wrong arguments.
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/stat.h>

#include "sockets.h"

// The name goes with the file, not with its path; and stays when nobody listens any more.
static void names_of_files(int l) {
  struct stat st;
  CHECK(rename("one", "two") == 0 && symlink("two", "link") == 0);
  int c = socket(AF_UNIX, SOCK_STREAM, 0);
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

void streams(void) {
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
  names_of_files(l);
}

void abstract_names(void) {
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

void wrong(void) {
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
