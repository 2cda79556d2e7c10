// Sockets of the AF_UNIX family: names, connections, datagrams, and open files that go through them. `sockets
// DIRECTORY`; `sockets listen PATH` waits for a connection and says so, `sockets knock PATH` makes one, `sockets
// refused PATH` must not.
#define _GNU_SOURCE
#include "sockets.h"

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
