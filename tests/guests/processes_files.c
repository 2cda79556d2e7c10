// Processes: what pipes, descriptors and locks do between them.
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "processes.h"

static void bytes_through_processes(void) {
  enum { kStages = 12, kBytes = 300000 };
  int in[2];
  CHECK(pipe(in) == 0);
  pid_t source = fork();
  if (source == 0) {
    close(in[0]);
    for (int i = 0; i < kBytes / 100; ++i) {
      char line[100];
      memset(line, 'a' + i % 20, sizeof line);
      for (size_t done = 0; done < sizeof line;) {
        ssize_t n = write(in[1], line + done, sizeof line - done);
        CHECK(n > 0);
        done += (size_t)n;
      }
    }
    _exit(0);
  }
  close(in[1]);
  int from = in[0];
  pid_t stages[kStages];
  for (int s = 0; s < kStages; ++s) {
    int out[2];
    CHECK(pipe(out) == 0);
    stages[s] = fork();
    if (stages[s] == 0) {
      close(out[0]);
      char block[5000];
      for (ssize_t n; (n = read(from, block, sizeof block)) > 0;) {
        for (ssize_t i = 0; i < n; ++i) ++block[i];
        for (ssize_t done = 0; done < n;) {
          ssize_t w = write(out[1], block + done, (size_t)(n - done));
          CHECK(w > 0);
          done += w;
        }
      }
      _exit(0);
    }
    close(out[1]);
    close(from);
    from = out[0];
  }
  unsigned long sum = 0, bytes = 0;
  unsigned char block[4096];
  for (ssize_t n; (n = read(from, block, sizeof block)) > 0; bytes += (unsigned long)n)
    for (ssize_t i = 0; i < n; ++i) sum = sum * 31 + block[i];
  ends_well(source);
  for (int s = 0; s < kStages; ++s) ends_well(stages[s]);
  printf("%lu bytes through %d processes, sum %lx\n", bytes, kStages, sum);
}

static void ends_of_pipes(void) {
  // Nobody reads: SIGPIPE. And the end is seen only when the last copy of the writing end has gone.
  int p[2];
  CHECK(pipe(p) == 0);
  close(p[0]);
  pid_t pid = fork();
  if (pid == 0) {
    write(p[1], "x", 1);
    _exit(0);
  }
  CHECK(status_of(pid) == SIGPIPE);
  close(p[1]);
  CHECK(pipe(p) == 0);
  int hold[2];
  CHECK(pipe(hold) == 0);
  pid = fork();
  if (pid == 0) {
    close(hold[1]);
    wait_for_end((void*)(intptr_t)hold[0]);
    _exit(0);
  }
  close(p[1]);
  struct pollfd poller = {.fd = p[0], .events = POLLIN};
  CHECK(poll(&poller, 1, 0) == 0);  // the child has it open
  close(hold[1]);
  CHECK(poll(&poller, 1, -1) == 1 && (poller.revents & POLLHUP));
  ends_well(pid);
  puts("ends of pipes");
}

static void socket_pair(void) {
  int pair[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  pid_t pid = fork();
  if (pid == 0) {
    char c;
    close(pair[0]);
    while (read(pair[1], &c, 1) == 1) {
      ++c;
      CHECK(write(pair[1], &c, 1) == 1);
    }
    _exit(0);
  }
  close(pair[1]);
  char c = 'a';
  for (int i = 0; i < 20; ++i) CHECK(write(pair[0], &c, 1) == 1 && read(pair[0], &c, 1) == 1);
  close(pair[0]);
  ends_well(pid);
  printf("a socket pair: %c\n", c);
}

void pipeline(void) {
  bytes_through_processes();
  ends_of_pipes();
  socket_pair();
}

static int lock_from_child(int fd, int type, off_t start, off_t length) {
  int* result = shared_memory(sizeof *result);
  pid_t pid = fork();
  if (pid == 0) {
    struct flock l = {.l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    *result = fcntl(fd, F_SETLK, &l) == 0 ? 0 : errno;
    _exit(0);
  }
  ends_well(pid);
  int answer = *result;
  munmap(result, sizeof *result);
  return answer;
}

static void shared_descriptions(int fd, const char* directory) {
  pid_t pid = fork();
  if (pid == 0) {
    char c[3];
    CHECK(read(fd, c, 3) == 3 && memcmp(c, "234", 3) == 0);
    CHECK(fcntl(fd, F_SETFL, O_APPEND) == 0);
    int copy = dup(fd);
    CHECK(copy >= 0 && close(fd) == 0);
    CHECK(mkdir("sub", 0755) == 0 && chdir("sub") == 0);
    umask(077);
    _exit(0);
  }
  ends_well(pid);
  CHECK(lseek(fd, 0, SEEK_CUR) == 5);                  // the offset is the description's
  CHECK(fcntl(fd, F_GETFL) & O_APPEND);                // so are the status flags
  CHECK(write(fd, "end", 3) == 3);
  char cwd[PATH_MAX];
  CHECK(getcwd(cwd, sizeof cwd) && strcmp(cwd, directory) == 0);
  mode_t mask = umask(0);
  CHECK(mask != 077 && (umask(mask), 1));
  puts("descriptions are shared, tables and directories are not");
}

static void locks_of_descriptions(int fd) {
  CHECK(flock(fd, LOCK_EX) == 0);
  pid_t pid = fork();
  if (pid == 0) {
    CHECK(flock(fd, LOCK_EX | LOCK_NB) == 0);          // the same description's lock
    int other = open("shared", O_RDWR);
    CHECK_ERRNO(flock(other, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    _exit(0);
  }
  ends_well(pid);
  CHECK(flock(fd, LOCK_UN) == 0);
  puts("flock");
}

static void locks_of_processes(int fd) {
  struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 4};
  CHECK(fcntl(fd, F_SETLK, &l) == 0);
  CHECK(lock_from_child(fd, F_WRLCK, 4, 10) == EAGAIN);
  CHECK(lock_from_child(fd, F_RDLCK, 2, 1) == EAGAIN);
  CHECK(lock_from_child(fd, F_WRLCK, 6, 0) == 0);
  CHECK(lock_from_child(fd, F_WRLCK, 0, 2) == 0);
  struct flock none = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
  CHECK_ERRNO(fcntl(fd, F_GETLK, &none), EINVAL);
  pid_t parent = getpid();
  pid_t pid = fork();
  if (pid == 0) {
    struct flock other = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    CHECK(fcntl(fd, F_GETLK, &other) == 0 && other.l_type == F_WRLCK && other.l_start == 2 && other.l_len == 4);
    CHECK(other.l_pid == parent);
    CHECK(close(dup(fd)) == 0);                        // drops the child's own locks, and it has none
    _exit(0);
  }
  ends_well(pid);
  CHECK(lock_from_child(fd, F_WRLCK, 2, 4) == EAGAIN);
  // Waiting for a lock, until its holder ends.
  int ready[2];
  CHECK(pipe(ready) == 0);
  pid = fork();
  if (pid == 0) {
    struct flock mine = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 1};
    CHECK(fcntl(fd, F_SETLK, &mine) == 0 && write(ready[1], "r", 1) == 1);
    struct flock wanted = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 1};
    CHECK(fcntl(fd, F_SETLKW, &wanted) == 0);
    _exit(5);
  }
  char c;
  CHECK(read(ready[0], &c, 1) == 1);
  CHECK(close(open("shared", O_RDONLY)) == 0);          // any descriptor of the file drops the process's locks
  l.l_start = 100, l.l_len = 1;
  CHECK(fcntl(fd, F_SETLKW, &l) == 0);
  CHECK(status_of(pid) == 5 << 8);
  puts("POSIX locks are a process's");
}

void files(const char* directory) {
  CHECK(chdir(directory) == 0);
  int fd = open("shared", O_RDWR | O_CREAT | O_TRUNC, 0644);
  CHECK(fd >= 0 && write(fd, "0123456789", 10) == 10 && lseek(fd, 2, SEEK_SET) == 2);
  shared_descriptions(fd, directory);
  locks_of_descriptions(fd);
  locks_of_processes(fd);
}
