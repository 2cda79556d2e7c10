// For sockets.c and its parts: names of sockets, descriptors to send, and what is tried in turn. Whoever includes it
// defines _GNU_SOURCE before any header.
#pragma once

#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"

struct address {
  struct sockaddr_un un;
  socklen_t length;
};
static inline struct sockaddr* generic(struct address* a) { return (struct sockaddr*)&a->un; }

// '@' at the beginning: an abstract name.
static inline struct address address_of(const char* name) {
  struct address a = {.un.sun_family = AF_UNIX};
  const size_t n = strlen(name);
  CHECK(n < sizeof a.un.sun_path);
  memcpy(a.un.sun_path, name, n);
  a.length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
  if (name[0] == '@') a.un.sun_path[0] = 0;
  else ++a.length;
  return a;
}
static inline int bound(int type, const char* name) {
  struct address a = address_of(name);
  const int s = socket(AF_UNIX, type, 0);
  CHECK(s >= 0 && bind(s, generic(&a), a.length) == 0);
  return s;
}
static inline int connects(int s, const char* name) {
  struct address a = address_of(name);
  return connect(s, generic(&a), a.length);
}
static inline int connected(int type, const char* name) {
  const int s = socket(AF_UNIX, type, 0);
  CHECK(s >= 0 && connects(s, name) == 0);
  return s;
}
// As the kernel tells it: abstract names with '@', unnamed as "-".
static inline const char* told(const struct address* a) {
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
static inline const char* own(int s) {
  struct address a = {.length = sizeof a.un};
  CHECK(getsockname(s, generic(&a), &a.length) == 0);
  return told(&a);
}
static inline const char* peer(int s) {
  struct address a = {.length = sizeof a.un};
  CHECK(getpeername(s, generic(&a), &a.length) == 0);
  return told(&a);
}

union control {
  struct cmsghdr header;
  char bytes[CMSG_SPACE(300 * sizeof(int))];
};
// Sends one byte, and those descriptors with it.
static inline ssize_t give(int s, const int* fds, int count) {
  union control c;
  struct iovec piece = {"x", 1};
  struct msghdr m = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &c,
                     .msg_controllen = CMSG_SPACE(count * sizeof(int))};
  memset(&c, 0, sizeof c);
  c.header = (struct cmsghdr){.cmsg_len = CMSG_LEN(count * sizeof(int)), .cmsg_level = SOL_SOCKET,
                              .cmsg_type = SCM_RIGHTS};
  memcpy(CMSG_DATA(&c.header), fds, count * sizeof(int));
  return sendmsg(s, &m, 0);
}

// --- what is tried, in the directory where the program is ---

// sockets_names.c
void streams(void), abstract_names(void), wrong(void);
// sockets_messages.c
void datagrams(void), open_files(void), many_messages(void);
// sockets_processes.c
void between_processes(void), interrupted(void);
// sockets_options.c
void time_limits(void), options(void), credentials(void);
