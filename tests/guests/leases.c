// Leases of fcntl(2): who may have one, and how long others wait for it.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(holds)                                                                                            \
  do {                                                                                                          \
    if (!(holds)) fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", __FILE__, __LINE__, #holds, errno), exit(1); \
  } while (0)
#define CHECK_ERRNO(call, error) CHECK((call) == -1 && errno == (error))

static const char* name;
static volatile sig_atomic_t told, told_fd, held = -1, answer;
static void give_back(int sig, siginfo_t* info, void* context) {
  (void)sig, (void)context;
  ++told, told_fd = info->si_fd;
  if (held >= 0 && answer >= 0) fcntl(held, F_SETLEASE, answer);
}

static int status_of(pid_t child) {
  int status;
  while (waitpid(child, &status, 0) != child) CHECK(errno == EINTR);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// What a child gets that opens the file so: 0 or errno.
static int child_opens(int flags) {
  fflush(stdout);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    signal(SIGUSR1, SIG_DFL);
    const int fd = open(name, flags);
    _exit(fd < 0 ? errno : 0);
  }
  return status_of(child);
}

static void who_may(void) {
  int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600), p[2];
  CHECK(fd >= 0 && write(fd, "abc", 3) == 3 && pipe(p) == 0);
  CHECK(fcntl(fd, F_GETLEASE) == F_UNLCK);
  CHECK_ERRNO(fcntl(fd, F_SETLEASE, F_UNLCK), EAGAIN);
  CHECK_ERRNO(fcntl(fd, F_SETLEASE, 7), EINVAL);
  CHECK_ERRNO(fcntl(p[0], F_SETLEASE, F_RDLCK), EINVAL);
  CHECK_ERRNO(fcntl(fd, F_SETLEASE, F_RDLCK), EAGAIN);  // it is open for writing
  CHECK(fcntl(fd, F_SETLEASE, F_WRLCK) == 0 && fcntl(fd, F_GETLEASE) == F_WRLCK);
  CHECK(fcntl(fd, F_GETOWN) == getpid());
  CHECK(fcntl(fd, F_SETLEASE, F_UNLCK) == 0 && fcntl(fd, F_GETLEASE) == F_UNLCK);
  const int other = open(name, O_RDONLY);
  CHECK_ERRNO(fcntl(fd, F_SETLEASE, F_WRLCK), EAGAIN);  // others have it open
  CHECK_ERRNO(fcntl(other, F_SETLEASE, F_RDLCK), EAGAIN);
  CHECK(close(fd) == 0 && fcntl(other, F_SETLEASE, F_RDLCK) == 0);
  const int third = open(name, O_RDONLY);
  CHECK(fcntl(third, F_SETLEASE, F_RDLCK) == 0 && fcntl(third, F_GETLEASE) == F_RDLCK);
  CHECK_ERRNO(fcntl(third, F_SETLEASE, F_WRLCK), EAGAIN);
  // A duplicate is the same; the lease goes with the last one.
  const int duplicate = dup(third);
  CHECK(close(third) == 0 && fcntl(duplicate, F_GETLEASE) == F_RDLCK && close(duplicate) == 0);
  CHECK(fcntl(other, F_SETLEASE, F_WRLCK) == 0 && close(other) == 0);
  CHECK(child_opens(O_RDWR | O_NONBLOCK) == 0);
  CHECK(close(p[0]) == 0 && close(p[1]) == 0);
  if (geteuid() == 0) {  // it is somebody else's
    fd = open(name, O_RDONLY);
    const pid_t child = fork();
    if (child == 0) {
      CHECK(setgid(65534) == 0 && setuid(65534) == 0);
      _exit(fcntl(fd, F_SETLEASE, F_RDLCK) == -1 ? errno : 0);
    }
    CHECK(status_of(child) == EACCES && close(fd) == 0);
  }
  puts("who may have one");
}

// Who gives one back has no signal chosen any more.
static int lease(int fd, int type) { return fcntl(fd, F_SETSIG, SIGUSR1) == 0 ? fcntl(fd, F_SETLEASE, type) : -1; }

// A lease that is refused leaves owner and signal as they were.
static void refused(void) {
  const int fd = open(name, O_RDONLY), other = open(name, O_RDONLY);
  CHECK(fd >= 0 && other >= 0 && fcntl(fd, F_SETSIG, SIGUSR2) == 0 && fcntl(fd, F_SETOWN, getpid()) == 0);
  CHECK_ERRNO(fcntl(fd, F_SETLEASE, F_WRLCK), EAGAIN);
  CHECK(fcntl(fd, F_GETSIG) == SIGUSR2 && fcntl(fd, F_GETOWN) == getpid() && fcntl(fd, F_GETLEASE) == F_UNLCK);
  CHECK(close(other) == 0 && fcntl(fd, F_SETLEASE, F_WRLCK) == 0 && fcntl(fd, F_GETSIG) == SIGUSR2 && close(fd) == 0);
}

static void others_wait(void) {
  struct sigaction action = {.sa_sigaction = give_back, .sa_flags = SA_SIGINFO | SA_RESTART};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  const int fd = open(name, O_RDONLY);
  CHECK(lease(fd, F_RDLCK) == 0);
  held = fd, answer = -1;
  CHECK(child_opens(O_RDONLY) == 0 && told == 0);
  CHECK(child_opens(O_WRONLY | O_NONBLOCK) == EWOULDBLOCK && told == 1 && told_fd == fd);
  CHECK(fcntl(fd, F_GETLEASE) == F_UNLCK);              // what it is to become
  CHECK(child_opens(O_WRONLY | O_NONBLOCK) == EWOULDBLOCK && told == 1);
  CHECK(fcntl(fd, F_SETLEASE, F_UNLCK) == 0 && fcntl(fd, F_GETOWN) == 0 && fcntl(fd, F_GETSIG) == 0);
  CHECK(child_opens(O_WRONLY | O_NONBLOCK) == 0);
  // Given back by the handler, and made less by it.
  answer = F_UNLCK;
  CHECK(lease(fd, F_RDLCK) == 0 && child_opens(O_WRONLY) == 0 && told == 2);
  CHECK(lease(fd, F_WRLCK) == 0);
  answer = F_RDLCK;
  CHECK(child_opens(O_RDONLY) == 0 && told == 3 && fcntl(fd, F_GETLEASE) == F_RDLCK);
  answer = F_UNLCK;
  CHECK(child_opens(O_RDONLY | O_TRUNC) == 0 && told == 3);  // as Linux has it
  CHECK(child_opens(O_RDWR) == 0 && told == 4 && fcntl(fd, F_GETLEASE) == F_UNLCK);
  // truncate(2) waits as well, ftruncate(2) of what is open already does not.
  CHECK(lease(fd, F_RDLCK) == 0);
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) _exit(truncate(name, 10) == 0 ? 0 : errno);
  CHECK(status_of(child) == 0 && told == 5 && fcntl(fd, F_GETLEASE) == F_UNLCK);
  // A waiting opener is told by its own signals, and goes when the holder does.
  answer = -1;
  int p[2];
  char byte;
  CHECK(pipe(p) == 0 && lease(fd, F_RDLCK) == 0);
  child = fork();
  if (child == 0) {
    close(fd);
    struct sigaction wake = {.sa_sigaction = give_back, .sa_flags = SA_SIGINFO};
    held = -1;
    CHECK(sigaction(SIGALRM, &wake, NULL) == 0);
    ualarm(20000, 0);
    CHECK_ERRNO(open(name, O_WRONLY), EINTR);
    CHECK(write(p[1], "w", 1) == 1);
    CHECK(open(name, O_WRONLY) >= 0);
    _exit(0);
  }
  ssize_t n;
  while ((n = read(p[0], &byte, 1)) < 0) CHECK(errno == EINTR);
  CHECK(n == 1 && told == 6 && close(fd) == 0 && status_of(child) == 0);
  puts("others wait");
}

int main(int argc, char** argv) {
  CHECK(argc == 2 && chdir(argv[1]) == 0);
  name = "leased";
  who_may();
  refused();
  others_wait();
  CHECK(unlink(name) == 0);
  return 0;
}
