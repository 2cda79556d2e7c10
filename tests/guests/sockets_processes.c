// Sockets: many connections between processes and threads, and waits that a signal ends.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/wait.h>

#include "sockets.h"

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

void between_processes(void) {
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
void interrupted(void) {
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
