// A program that wants to know when it has become a copy: by the generation's number, its files, a wait and a signal.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../vmm/include/ramet_guest.h"

#define CHECK(holds)                                                                                            \
  do {                                                                                                          \
    if (!(holds)) fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", __FILE__, __LINE__, #holds, errno), exit(1); \
  } while (0)

static volatile sig_atomic_t heard, value, code;
static void hear(int sig, siginfo_t* info, void* context) {
  (void)sig, (void)context;
  ++heard, value = info->si_value.sival_int, code = info->si_code;
}

static void* wait_for_it(void* seen) {
  long result;
  while ((result = ramet_generation_wait((unsigned long)seen)) < 0 && errno == EINTR) {
  }
  return (void*)result;
}

static int readable(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  return poll(&p, 1, 0);
}

// The file that was opened before says how things are now, and the device is readable once.
static void look(unsigned long generation, int text, int device, int epoll) {
  struct epoll_event event;
  char line[32] = "", wanted[32];
  uint64_t number = 0;
  snprintf(wanted, sizeof wanted, "%lu\n", generation);
  CHECK(ramet_generation() == generation);
  CHECK(pread(text, line, sizeof line - 1, 0) > 0 && strtoul(line, NULL, 10) == generation && line[0] == wanted[0]);
  CHECK(readable(device) == (generation > 0) && epoll_wait(epoll, &event, 1, 0) == (generation > 0));
  if (generation > 0) CHECK(read(device, &number, sizeof number) == sizeof number && number == generation);
  CHECK(readable(device) == 0 && read(device, &number, sizeof number) == -1 && errno == EAGAIN);
}

int main(void) {
  const int device = open("/dev/ramet_generation", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  const int text = open("/proc/ramet/generation", O_RDONLY | O_CLOEXEC);
  struct sigaction action = {.sa_sigaction = hear, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
  CHECK(ramet_generation_signal(SIGUSR2) == 0);
  if (device < 0) {  // natively
    CHECK(errno == ENOENT && ramet_generation() == 0 && ramet_generation_wait(0) == -1 && errno == ENOSYS);
    CHECK(ramet_snapshot("first") == 0 && heard == 0);
    puts("native");
    return 0;
  }
  CHECK(open("/dev/ramet_generation", O_RDWR) == -1 && errno == EACCES);
  struct stat st;
  CHECK(stat("/dev/ramet_generation", &st) == 0 && S_ISCHR(st.st_mode));  // who reads all files that there are passes it by
  CHECK(write(device, &st, 8) == -1 && errno == EBADF);
  CHECK(ramet_generation_signal(65) == -1 && errno == EINVAL && ramet_generation_signal(-1) == -1 && errno == EINVAL);
  const int epoll = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN};
  CHECK(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, device, &event) == 0);
  unsigned long generation = ramet_generation();
  look(generation, text, device, epoll);
  for (const char* name = "first"; name; name = generation == 1 ? "second" : NULL) {
    pthread_t waiting;
    void* result;
    CHECK(pthread_create(&waiting, NULL, wait_for_it, (void*)generation) == 0);
    if (!ramet_snapshot(name)) return puts("not saved"), 0;
    CHECK(pthread_join(waiting, &result) == 0 && (unsigned long)result == generation + 1);
    ++generation;
    CHECK(heard == (int)generation && value == (int)generation && code == SI_QUEUE);
    look(generation, text, device, epoll);
  }
  // Children are no copies.
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) _exit(ramet_generation() != generation || heard != (int)generation);
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  printf("generation %lu\n", generation);
  return 0;
}
