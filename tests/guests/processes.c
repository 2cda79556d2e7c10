// Processes: what fork, wait, pipes, signals, groups and shared memory do between them. `processes CASE [DIRECTORY]`;
// exec.c has what execve does.
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "isa.h"

static pid_t child_of(void (*run)(void*), void* argument) {
  fflush(stdout);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    run(argument);
    fflush(stdout);
    _exit(0);
  }
  return pid;
}

static int status_of(pid_t pid) {
  int status = -1;
  CHECK(waitpid(pid, &status, 0) == pid);
  return status;
}

static void ends_well(pid_t pid) {
  int status = status_of(pid);
  if (status != 0) printf("status %#x\n", status);
  CHECK(status == 0);
}

static void exit_with(void* code) { _exit((int)(intptr_t)code); }
enum { kStops = 1000 };
static void stop_often(void* unused) {
  (void)unused;
  for (int i = 0; i < kStops; ++i) CHECK(raise(SIGSTOP) == 0);
  _exit(0);
}
static void wait_for_ever(void* unused) {
  (void)unused;
  for (;;) pause();
}
// Until the other end of the pipe is closed.
static void wait_for_end(void* fd) {
  char c;
  while (read((int)(intptr_t)fd, &c, 1) > 0) {
  }
}
static void* shared_memory(size_t bytes) {
  void* memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  return memory;
}

// --- waiting ---

static int variable = 1;
static char* heap;

static void changes_its_own(void* parent) {
  CHECK(getppid() == (pid_t)(intptr_t)parent);
  CHECK(variable == 1 && strcmp(heap, "parent's") == 0);
  variable = 2;
  strcpy(heap, "child's");
  CHECK(syscall(SYS_gettid) == getpid());
  CHECK_ERRNO(wait(NULL), ECHILD);
}

static void less_important(void* unused) {
  (void)unused;
  CHECK(nice(3) == 3 && getpriority(PRIO_PROCESS, 0) == 3 && getpriority(PRIO_PROCESS, getppid()) == 0);
  pid_t pid = fork();
  if (pid == 0) {
    CHECK(getpriority(PRIO_PROCESS, 0) == 3 && setpriority(PRIO_PROCESS, getpid(), 100) == 0);
    CHECK(getpriority(PRIO_PROCESS, 0) == 19);
    _exit(0);
  }
  ends_well(pid);
  CHECK_ERRNO(setpriority(PRIO_PROCESS, pid, 5), ESRCH);
}

static char state_of(pid_t pid) {
  char path[64], line[256];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  const int fd = open(path, O_RDONLY);
  CHECK(fd >= 0);
  const ssize_t n = read(fd, line, sizeof line - 1);
  CHECK(n > 0 && close(fd) == 0);
  line[n] = 0;
  return strrchr(line, ')')[2];
}

static volatile sig_atomic_t counted;
static void count_signal(int sig) { counted += sig == SIGCHLD; }
static void exit_after_a_while(void* unused) {
  (void)unused;
  usleep(2000);
  _exit(0);
}

static void basics(void) {
  heap = malloc(100);
  strcpy(heap, "parent's");
  CHECK_ERRNO(wait(NULL), ECHILD);
  pid_t pid = child_of(changes_its_own, (void*)(intptr_t)getpid());
  CHECK(pid != getpid());
  ends_well(pid);
  CHECK(variable == 1 && strcmp(heap, "parent's") == 0);
  CHECK_ERRNO(waitpid(pid, NULL, 0), ECHILD);
  ends_well(child_of(less_important, NULL));
  uint64_t arguments[11] = {[4] = SIGCHLD};  // of clone3: identifiers to be had, and how many
  arguments[8] = (uint64_t)&pid;
  CHECK_ERRNO(syscall(SYS_clone3, arguments, 88), EINVAL);
  arguments[8] = 0, arguments[9] = 1;
  CHECK_ERRNO(syscall(SYS_clone3, arguments, 88), EINVAL);
  fflush(stdout);
  pid = (pid_t)syscall(SYS_clone, CLONE_PARENT_SETTID | SIGCHLD, NULL, wild_address, NULL, NULL);  // nobody is told
  if (pid == 0) _exit(0);
  CHECK(pid > 0);
  ends_well(pid);
  puts("memory is the child's own");

  int status = status_of(child_of(exit_with, (void*)0x142));
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0x42);
  int hold[2];
  CHECK(pipe(hold) == 0);
  pid = child_of(wait_for_ever, NULL);
  CHECK(waitpid(pid, &status, WNOHANG) == 0);
  CHECK(waitpid(-1, &status, WNOHANG) == 0);
  CHECK_ERRNO(waitpid(pid + 100000, &status, WNOHANG), ECHILD);
  siginfo_t info;
  memset(&info, 1, sizeof info);
  CHECK(waitid(P_ALL, 0, &info, WEXITED | WNOHANG) == 0 && info.si_pid == 0 && info.si_signo == 0);
  CHECK(kill(pid, SIGTERM) == 0);
  struct rusage usage;
  CHECK(wait4(pid, &status, 0, &usage) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
  CHECK_ERRNO(kill(pid, 0), ESRCH);
  CHECK(state_of(getpid()) == 'R');
  pid = child_of(wait_for_ever, NULL);
  while (state_of(pid) != 'S') sched_yield();
  CHECK(kill(pid, SIGKILL) == 0 && status_of(pid) == SIGKILL);
  // The signal of a child that ends does not interrupt who waits for that child.
  const struct sigaction heard = {.sa_handler = count_signal}, usual = {.sa_handler = SIG_DFL};
  CHECK(sigaction(SIGCHLD, &heard, NULL) == 0);
  for (int i = 0; i < 20; ++i) {
    pid = child_of(exit_after_a_while, NULL);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0 && counted == i + 1);
  }
  CHECK(sigaction(SIGCHLD, &usual, NULL) == 0);
  puts("statuses of wait4");

  pid = child_of(exit_with, (void*)9);
  CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
  CHECK(info.si_signo == SIGCHLD && info.si_code == CLD_EXITED && info.si_pid == pid && info.si_status == 9);
  CHECK(info.si_uid == getuid());
  CHECK(kill(pid, 0) == 0);  // a zombie is there
  CHECK(getpgid(pid) == getpgrp());
  memset(&info, 0, sizeof info);
  CHECK(waitid(P_PID, (id_t)pid, &info, WEXITED) == 0 && info.si_status == 9);
  CHECK_ERRNO(waitid(P_PID, (id_t)pid, &info, WEXITED), ECHILD);
  CHECK(info.si_signo == 0 && info.si_pid == 0);
  pid = child_of(wait_for_ever, NULL);
  kill(pid, SIGKILL);
  CHECK(waitid(P_ALL, 0, &info, WEXITED) == 0 && info.si_code == CLD_KILLED && info.si_status == SIGKILL);
  CHECK(info.si_pid == pid);
  CHECK_ERRNO(waitid(P_PID, 0, &info, WEXITED), EINVAL);
  CHECK_ERRNO(waitid(P_PID, 1, &info, 0), EINVAL);
  CHECK_ERRNO(waitid((idtype_t)17, 1, &info, WEXITED), EINVAL);
  CHECK_ERRNO(wait4(-1, NULL, 0x10000000, NULL), EINVAL);
  CHECK_ERRNO(wait4(INT_MIN, NULL, 0, NULL), ESRCH);
  puts("waitid");

  // Any child, one of a group, and all at once.
  pid_t pids[5];
  for (int i = 0; i < 5; ++i) pids[i] = child_of(exit_with, (void*)(intptr_t)i);
  int sum = 0;
  for (int i = 0; i < 5; ++i) {
    pid = waitpid(i % 2 ? 0 : -1, &status, 0);
    CHECK(pid > 0 && WIFEXITED(status));
    CHECK(pids[WEXITSTATUS(status)] == pid);
    sum += WEXITSTATUS(status);
  }
  CHECK(sum == 10);
  CHECK_ERRNO(wait(NULL), ECHILD);
  CHECK(getrusage(RUSAGE_CHILDREN, &usage) == 0);
  CHECK_ERRNO(syscall(SYS_wait4, -1, wild_address, WNOHANG, NULL), ECHILD);
  pid = child_of(exit_with, NULL);
  CHECK(waitid(P_PID, (id_t)pid, NULL, WEXITED | WNOWAIT) == 0);
  CHECK_ERRNO(syscall(SYS_wait4, pid, wild_address, 0, NULL), EFAULT);
  puts("any child, and a group's");
}

// --- many ---

struct tree {
  atomic_int processes, deepest;
};

static void grow(struct tree* tree, int depth, int width) {
  atomic_fetch_add(&tree->processes, 1);
  if (depth > atomic_load(&tree->deepest)) atomic_store(&tree->deepest, depth);
  if (depth == 3) return;
  pid_t pids[8];
  for (int i = 0; i < width; ++i) {
    pids[i] = fork();
    CHECK(pids[i] >= 0);
    if (pids[i] == 0) {
      grow(tree, depth + 1, width);
      _exit(depth + 1);
    }
  }
  for (int i = 0; i < width; ++i) CHECK(status_of(pids[i]) == (depth + 1) << 8);
}

static void tree(int width) {
  CHECK(width <= 8);
  struct tree* tree = shared_memory(sizeof *tree);
  fflush(stdout);
  grow(tree, 0, width);  // of 6: 1 + 6 + 36 + 216
  printf("%d processes, %d deep\n", atomic_load(&tree->processes), atomic_load(&tree->deepest));
}

static void many(int number) {
  int hold[2];
  CHECK(pipe(hold) == 0);
  pid_t pids[number];
  for (int i = 0; i < number; ++i) {
    pids[i] = fork();
    CHECK(pids[i] >= 0);
    if (pids[i] == 0) {
      close(hold[1]);
      wait_for_end((void*)(intptr_t)hold[0]);
      _exit(i & 0x7f);
    }
    for (int j = 0; j < i; ++j) CHECK(pids[i] != pids[j]);
  }
  close(hold[1]);
  for (int i = 0; i < number; ++i) CHECK(status_of(pids[i]) == (i & 0x7f) << 8);
  printf("%d processes at a time\n", number);
  for (int i = 0; i < number; ++i) ends_well(child_of(exit_with, NULL));
  printf("%d one after the other\n", number);
}

// --- threads ---

static atomic_int stop;
static void* churn(void* unused) {
  (void)unused;
  while (!atomic_load(&stop)) {
    char* p = malloc(3000);
    memset(p, 7, 3000);
    free(p);
  }
  return NULL;
}
static void uses_memory_alone(void* unused) {
  (void)unused;
  for (int i = 0; i < 100; ++i) free(malloc(5000));
  CHECK(syscall(SYS_tgkill, getpid(), getpid(), 0) == 0);
}
static int forks_each;
static void* forks(void* count) {
  for (int i = 0; i < forks_each; ++i) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
      uses_memory_alone(NULL);
      _exit(0);
    }
    ends_well(pid);
    atomic_fetch_add((atomic_int*)count, 1);
  }
  return NULL;
}
static void* thread_exits_process(void* code) { _exit((int)(intptr_t)code); }
static void ends_from_a_thread(void* unused) {
  (void)unused;
  pthread_t t;
  CHECK(pthread_create(&t, NULL, thread_exits_process, (void*)33) == 0);
  for (;;) pause();
}
static void leader_leaves(void* unused) {
  (void)unused;
  pthread_t t;
  CHECK(pthread_create(&t, NULL, thread_exits_process, (void*)34) == 0);
  syscall(SYS_exit, 1);
}

static void threaded(int rounds) {
  forks_each = rounds;
  pthread_t noise[3], forking[3];
  atomic_int forked = 0;
  for (int i = 0; i < 3; ++i) CHECK(pthread_create(&noise[i], NULL, churn, NULL) == 0);
  for (int i = 0; i < 3; ++i) CHECK(pthread_create(&forking[i], NULL, forks, &forked) == 0);
  for (int i = 0; i < 3; ++i) pthread_join(forking[i], NULL);
  atomic_store(&stop, 1);
  for (int i = 0; i < 3; ++i) pthread_join(noise[i], NULL);
  printf("%d forks beside other threads\n", atomic_load(&forked));
  CHECK(status_of(child_of(ends_from_a_thread, NULL)) == 33 << 8);
  CHECK(status_of(child_of(leader_leaves, NULL)) == 34 << 8);
  puts("a thread ends its process");
}

// --- pipes and descriptors ---

static void pipeline(void) {
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

  int pair[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  pid = fork();
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

static void files(const char* directory) {
  CHECK(chdir(directory) == 0);
  int fd = open("shared", O_RDWR | O_CREAT | O_TRUNC, 0644);
  CHECK(fd >= 0 && write(fd, "0123456789", 10) == 10 && lseek(fd, 2, SEEK_SET) == 2);
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

  CHECK(flock(fd, LOCK_EX) == 0);
  pid = fork();
  if (pid == 0) {
    CHECK(flock(fd, LOCK_EX | LOCK_NB) == 0);          // the same description's lock
    int other = open("shared", O_RDWR);
    CHECK_ERRNO(flock(other, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    _exit(0);
  }
  ends_well(pid);
  CHECK(flock(fd, LOCK_UN) == 0);
  puts("flock");

  struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 4};
  CHECK(fcntl(fd, F_SETLK, &l) == 0);
  CHECK(lock_from_child(fd, F_WRLCK, 4, 10) == EAGAIN);
  CHECK(lock_from_child(fd, F_RDLCK, 2, 1) == EAGAIN);
  CHECK(lock_from_child(fd, F_WRLCK, 6, 0) == 0);
  CHECK(lock_from_child(fd, F_WRLCK, 0, 2) == 0);
  struct flock none = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
  CHECK_ERRNO(fcntl(fd, F_GETLK, &none), EINVAL);
  pid_t parent = getpid();
  pid = fork();
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

// --- shared memory ---

struct area {
  atomic_int counter;
  long plain;
  pthread_mutex_t mutex, robust;
  pthread_cond_t condition;
  pthread_barrier_t barrier;
  sem_t ping, pong;
  int turn;
};

static void shared_area(struct area* area, const char* what) {
  enum { kProcesses = 4, kRounds = 300 };
  memset(area, 0, sizeof *area);
  pthread_mutexattr_t m;
  pthread_mutexattr_init(&m);
  pthread_mutexattr_setpshared(&m, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(&area->mutex, &m);
  pthread_mutexattr_setrobust(&m, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&area->robust, &m);
  pthread_condattr_t c;
  pthread_condattr_init(&c);
  pthread_condattr_setpshared(&c, PTHREAD_PROCESS_SHARED);
  pthread_cond_init(&area->condition, &c);
  pthread_barrierattr_t b;
  pthread_barrierattr_init(&b);
  pthread_barrierattr_setpshared(&b, PTHREAD_PROCESS_SHARED);
  pthread_barrier_init(&area->barrier, &b, kProcesses);
  sem_init(&area->ping, 1, 0);
  sem_init(&area->pong, 1, 0);
  pid_t pids[kProcesses];
  for (int p = 0; p < kProcesses; ++p) {
    pids[p] = fork();
    CHECK(pids[p] >= 0);
    if (pids[p] != 0) continue;
    pthread_barrier_wait(&area->barrier);
    for (int i = 0; i < kRounds; ++i) {
      atomic_fetch_add(&area->counter, 1);
      pthread_mutex_lock(&area->mutex);
      ++area->plain;
      pthread_mutex_unlock(&area->mutex);
    }
    pthread_mutex_lock(&area->mutex);
    while (area->turn != p) pthread_cond_wait(&area->condition, &area->mutex);
    ++area->turn;
    pthread_cond_broadcast(&area->condition);
    pthread_mutex_unlock(&area->mutex);
    _exit(0);
  }
  for (int p = 0; p < kProcesses; ++p) ends_well(pids[p]);
  printf("%s: %d atomic, %ld under a mutex, %d turns\n", what, atomic_load(&area->counter), area->plain, area->turn);
  pid_t pid = fork();
  if (pid == 0) {
    for (int i = 0; i < kRounds; ++i) {
      CHECK(sem_wait(&area->ping) == 0);
      ++area->plain;
      CHECK(sem_post(&area->pong) == 0);
    }
    pthread_mutex_lock(&area->robust);
    _exit(0);  // and leaves it locked
  }
  for (int i = 0; i < kRounds; ++i) {
    CHECK(sem_post(&area->ping) == 0);
    CHECK(sem_wait(&area->pong) == 0);
  }
  ends_well(pid);
  CHECK(pthread_mutex_lock(&area->robust) == EOWNERDEAD && pthread_mutex_consistent(&area->robust) == 0);
  CHECK(pthread_mutex_unlock(&area->robust) == 0);
  printf("%s: semaphores, and a mutex whose owner died: %ld\n", what, area->plain);
}

static void shared(const char* directory) {
  CHECK(chdir(directory) == 0);
  shared_area(shared_memory(sizeof(struct area)), "anonymous");
  int fd = open("area", O_RDWR | O_CREAT | O_TRUNC, 0644);
  CHECK(fd >= 0 && ftruncate(fd, 65536) == 0);
  struct area* mapped = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(mapped != MAP_FAILED);
  shared_area(mapped, "file");
  memset(mapped, 'x', 65536);
  // Private pages of the same file are each process's own; what the parent maps later the child does not see.
  char* private = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  CHECK(private != MAP_FAILED);
  private[0] = 'p';
  char* forgotten = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(forgotten != MAP_FAILED && madvise(forgotten, 4096, MADV_DONTFORK) == 0);
  char* wiped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(wiped != MAP_FAILED && madvise(wiped, 4096, MADV_WIPEONFORK) == 0);
  CHECK_ERRNO(madvise(mapped, 4096, MADV_WIPEONFORK), EINVAL);
  strcpy(wiped, "a key");
  char* hidden = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(hidden != MAP_FAILED);
  strcpy(hidden, "behind no access");
  CHECK(mprotect(hidden, 4096, PROT_NONE) == 0);
  char* constant = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  strcpy(constant, "read only");
  CHECK(mprotect(constant, 4096, PROT_READ) == 0);
  pid_t pid = fork();
  if (pid == 0) {
    CHECK(private[0] == 'p' && private[1] == 'x');
    private[0] = 'c', private[4096] = 'c';
    ((char*)mapped)[100] = 'c';
    CHECK_ERRNO(msync(forgotten, 4096, MS_ASYNC), ENOMEM);
    CHECK(forgotten[4096] == 0);
    CHECK(wiped[0] == 0);
    wiped[0] = 'c';
    const pid_t grandchild = fork();
    if (grandchild == 0) _exit(wiped[0]);
    ends_well(grandchild);
    CHECK(wiped[0] == 'c');
    CHECK(mprotect(hidden, 4096, PROT_READ) == 0 && strcmp(hidden, "behind no access") == 0);
    CHECK(strcmp(constant, "read only") == 0);
    CHECK(mprotect(constant, 4096, PROT_READ | PROT_WRITE) == 0);
    strcpy(constant, "changed");
    CHECK(ftruncate(fd, 4096) == 0);                   // under the parent's mapping
    _exit(0);
  }
  ends_well(pid);
  CHECK(private[0] == 'p' && ((char*)mapped)[100] == 'c' && strcmp(constant, "read only") == 0 && strcmp(wiped, "a key") == 0);
  pid = fork();
  if (pid == 0) _exit(((volatile char*)mapped)[8192]);
  CHECK(WTERMSIG(status_of(pid)) == SIGBUS);
  puts("private, forgotten and hidden pages");

  // What is moved to beside other memory, whose page tables a child shares, leaves that as it was.
  enum { kBlock = 2 << 20, kPiece = 1 << 16 };
  char* area = mmap(NULL, 4 * kBlock, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(area != MAP_FAILED);
  char* block = (char*)(((uintptr_t)area + kBlock - 1) & -(uintptr_t)kBlock);
  char* moves = mmap(NULL, kPiece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(moves != MAP_FAILED && mprotect(block, 4096, PROT_READ | PROT_WRITE) == 0);
  strcpy(block, "neighbour");
  strcpy(moves, "moves");
  pid = child_of(wait_for_ever, NULL);
  moves = mremap(moves, kPiece, kPiece, MREMAP_MAYMOVE | MREMAP_FIXED, block + kBlock - kPiece);
  CHECK(moves == block + kBlock - kPiece && strcmp(moves, "moves") == 0 && strcmp(block, "neighbour") == 0);
  CHECK(kill(pid, SIGKILL) == 0 && status_of(pid) == SIGKILL);
  puts("moved pages");
}

// --- signals ---

static volatile sig_atomic_t caught, caught_value;
static volatile siginfo_t caught_info;
static void on_signal(int sig, siginfo_t* info, void* context) {
  (void)context;
  caught = sig;
  caught_value = info->si_value.sival_int;
  memcpy((void*)&caught_info, info, sizeof *info);
}
static void handle(int sig, int flags) {
  struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | flags};
  CHECK(sigaction(sig, &action, NULL) == 0);
}
static void await(int sig) {  // which is blocked but here
  sigset_t all, none;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, NULL, &none);
  sigdelset(&none, sig);
  while (caught != sig) sigsuspend(&none);
  caught = 0;
}
static void block(int sig) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, sig);
  CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
}

static void signals(void) {
  block(SIGUSR1);
  block(SIGUSR2);
  block(SIGCHLD);
  handle(SIGUSR1, 0);
  handle(SIGUSR2, 0);
  handle(SIGCHLD, 0);
  pid_t parent = getpid(), pid = fork();
  if (pid == 0) {
    await(SIGUSR1);
    CHECK(caught_info.si_pid == parent && caught_info.si_code == SI_QUEUE && caught_value == 77);
    CHECK(kill(getppid(), SIGUSR2) == 0);
    _exit(3);
  }
  union sigval value = {.sival_int = 77};
  CHECK(sigqueue(pid, SIGUSR1, value) == 0);
  await(SIGUSR2);
  CHECK(caught_info.si_pid == pid && caught_info.si_code == SI_USER);
  await(SIGCHLD);
  CHECK(caught_info.si_pid == pid && caught_info.si_code == CLD_EXITED && caught_info.si_status == 3);
  CHECK(status_of(pid) == 3 << 8);
  siginfo_t forged = {.si_signo = SIGUSR1, .si_code = SI_USER};
  pid = child_of(wait_for_ever, NULL);
  CHECK_ERRNO(syscall(SYS_rt_sigqueueinfo, pid, SIGUSR1, &forged), EPERM);
  CHECK_ERRNO(kill(pid, 65), EINVAL);
  CHECK(syscall(SYS_tgkill, pid, pid, SIGKILL) == 0);
  CHECK(status_of(pid) == SIGKILL);
  await(SIGCHLD);
  CHECK(caught_info.si_code == CLD_KILLED && caught_info.si_status == SIGKILL);
  puts("between parent and child");

  // A group of three, one of them its leader.
  pid_t group[3];
  for (int i = 0; i < 3; ++i) {
    group[i] = fork();
    if (group[i] == 0) {
      setpgid(0, i == 0 ? 0 : group[0]);
      wait_for_ever(NULL);
    }
    setpgid(group[i], group[0]);
    CHECK(getpgid(group[i]) == group[0]);
  }
  CHECK_ERRNO(setpgid(group[1], getpid() + 1000000), EPERM);
  CHECK_ERRNO(waitpid(0, NULL, WNOHANG), ECHILD);  // none in our own group
  CHECK(kill(-group[0], 0) == 0 && kill(-group[0], SIGHUP) == 0);
  int status;
  for (int i = 0; i < 3; ++i) CHECK(waitpid(-group[0], &status, 0) > 0 && status == SIGHUP);
  CHECK_ERRNO(kill(-group[0], SIGHUP), ESRCH);
  pid = fork();
  if (pid == 0) {
    CHECK(setsid() == getpid() && getsid(0) == getpid() && getpgrp() == getpid());
    CHECK_ERRNO(setsid(), EPERM);
    CHECK_ERRNO(setpgid(0, 0), EPERM);
    _exit(0);
  }
  ends_well(pid);
  puts("groups and sessions");

  // Stopping: told to the parent, by wait and by signal.
  while (sigtimedwait(&(sigset_t){{1ul << (SIGCHLD - 1)}}, NULL, &(struct timespec){0, 0}) > 0) {
  }
  caught = 0;
  pid = child_of(wait_for_ever, NULL);
  CHECK(kill(pid, SIGSTOP) == 0);
  CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
  await(SIGCHLD);
  CHECK(caught_info.si_code == CLD_STOPPED && caught_info.si_status == SIGSTOP && caught_info.si_pid == pid);
  CHECK(waitpid(pid, &status, WUNTRACED | WNOHANG) == 0);  // told once
  CHECK(kill(pid, SIGTERM) == 0);                          // waits until it goes on
  CHECK(waitpid(pid, &status, WNOHANG) == 0);
  CHECK(kill(pid, SIGCONT) == 0);
  CHECK(status_of(pid) == SIGTERM);
  handle(SIGCHLD, SA_NOCLDSTOP);
  pid = child_of(wait_for_ever, NULL);
  setpgid(pid, pid);                                       // a group that its parent could continue
  siginfo_t info;
  CHECK(kill(pid, SIGTSTP) == 0 && waitid(P_PID, (id_t)pid, &info, WSTOPPED) == 0);
  CHECK(info.si_code == CLD_STOPPED && info.si_status == SIGTSTP);
  CHECK(kill(pid, SIGCONT) == 0 && waitid(P_PID, (id_t)pid, &info, WCONTINUED | WNOWAIT) == 0);
  CHECK(info.si_code == CLD_CONTINUED && info.si_status == SIGCONT);
  CHECK(waitpid(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status));
  CHECK(kill(pid, SIGSTOP) == 0 && waitpid(pid, &status, WUNTRACED) == pid && kill(pid, SIGKILL) == 0);
  CHECK(status_of(pid) == SIGKILL);                        // even while it is stopped
  // Every stop is told of, however soon it follows upon being continued.
  pid = child_of(stop_often, NULL);
  for (int i = 0; i < kStops; ++i) {
    CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
    CHECK(kill(pid, SIGCONT) == 0);
  }
  ends_well(pid);
  puts("stop and continue");

  // Children that nobody waits for.
  signal(SIGCHLD, SIG_IGN);
  for (int i = 0; i < 5; ++i) child_of(exit_with, (void*)1);
  CHECK_ERRNO(wait(NULL), ECHILD);
  handle(SIGCHLD, SA_NOCLDWAIT);
  pid = child_of(exit_with, (void*)1);
  CHECK_ERRNO(waitpid(pid, NULL, 0), ECHILD);
  signal(SIGCHLD, SIG_DFL);
  puts("ignored children");

  // A signal while the parent waits: the handler runs, and the wait goes on or ends.
  int hold[2];
  CHECK(pipe(hold) == 0);
  for (int restart = 0; restart < 2; ++restart) {
    handle(SIGUSR1, restart ? SA_RESTART : 0);
    sigset_t open;
    sigemptyset(&open);
    sigaddset(&open, SIGUSR1);
    sigprocmask(SIG_UNBLOCK, &open, NULL);
    pid = fork();
    if (pid == 0) {
      pid_t other = fork();
      if (other == 0) {
        usleep(20000);
        kill(parent, SIGUSR1);
        _exit(0);
      }
      status_of(other);
      if (!restart) wait_for_ever(NULL);
      usleep(20000);
      _exit(4);
    }
    caught = 0;
    pid_t r = waitpid(pid, &status, 0);
    CHECK(caught == SIGUSR1);
    if (restart) {
      CHECK(r == pid && status == 4 << 8);
    } else {
      CHECK(r == -1 && errno == EINTR && kill(pid, SIGKILL) == 0 && status_of(pid) == SIGKILL);
    }
  }
  puts("a signal while waiting");
}

// --- orphans ---

static void orphans(void) {
  int told[2];
  CHECK(pipe(told) == 0);
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    pid_t parent = getpid();
    if (fork() == 0) {
      while (getppid() == parent) usleep(1000);
      CHECK(write(told[1], "o", 1) == 1);
      _exit(1);
    }
    _exit(0);
  }
  ends_well(pid);
  char c;
  CHECK(read(told[0], &c, 1) == 1);
  CHECK_ERRNO(wait(NULL), ECHILD);  // it is somebody else's
  puts("an orphan");
  CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  int on = 0;
  CHECK(prctl(PR_GET_CHILD_SUBREAPER, &on) == 0 && on == 1);
  pid_t me = getpid();
  pid = fork();
  if (pid == 0) {
    pid_t parent = getpid();
    if (fork() == 0) {
      while (getppid() == parent) usleep(1000);
      _exit(getppid() == me ? 6 : 7);
    }
    _exit(0);
  }
  ends_well(pid);
  int status;
  CHECK(wait(&status) > 0 && status == 6 << 8);
  puts("adopted by a subreaper");

  pid = fork();
  if (pid == 0) {
    if (fork() == 0) {
      CHECK(prctl(PR_SET_PDEATHSIG, SIGTERM) == 0);
      CHECK(write(told[1], "r", 1) == 1);
      wait_for_ever(NULL);
    }
    CHECK(read(told[0], &c, 1) == 1);
    _exit(0);
  }
  ends_well(pid);
  CHECK(wait(&status) > 0 && status == SIGTERM);
  puts("a parent's death");
}

// Forks until it is refused; for guests only, as natively it takes the machine.
static void limit(void) {
  int hold[2];
  CHECK(pipe(hold) == 0);
  int made = 0;
  for (;; ++made) {
    pid_t pid = fork();
    if (pid < 0) break;
    if (pid == 0) {
      close(hold[1]);
      wait_for_end((void*)(intptr_t)hold[0]);
      _exit(0);
    }
  }
  const int refused = errno;
  printf("%d children\n", made);
  fflush(stdout);
  CHECK(refused == EAGAIN);
  close(hold[1]);
  for (int i = 0; i < made; ++i) CHECK(wait(NULL) > 0);
  struct rlimit few = {3, 3};
  CHECK(setrlimit(RLIMIT_NPROC, &few) == 0);
  for (int i = 0; i < 2; ++i) child_of(exit_with, NULL);
  CHECK_ERRNO(fork(), EAGAIN);  // zombies count
  CHECK(wait(NULL) > 0);
  child_of(exit_with, NULL);
  puts("limited");
}

// Wrong arguments to all that makes, ends and waits for processes. Guests only: it would make namespaces natively.
static uint64_t state;
static uint64_t next(void) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return state;
}
static long odd(void) {
  static char place[256] __attribute__((aligned(16)));
  switch (next() % 6) {
    case 0: return 0;
    case 1: return (long)next();
    case 2: return (long)(next() % 64);
    case 3: return (long)&place[next() % 200];
    case 4: return (long)(0x7ffffffff000 - next() % 5000);
    default: return -(long)(next() % 5000);
  }
}
static void hostile(uint64_t seed) {
  state = seed * 2 + 1;
  static uint64_t arguments[16];
  int status;
  const uint64_t all = ~0ull;  // children end with any signal; glibc would leave out its own
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof all);
  for (int round = 0; round < 2000; ++round) {
    long flags = (long)(next() % 4 ? SIGCHLD : next() % 256);
    if ((flags & 0x7f) == SIGKILL || (flags & 0x7f) == SIGSTOP) flags = SIGCHLD;
    for (uint64_t n = next() % 5; n; --n) flags |= 0x100l << next() % 24;
    if (next() % 3 == 0) flags |= 0x10f00;  // what threads share
    switch (next() % 8) {
      case 0:
        isa_clone(SYS_clone, flags, next() % 2 ? 0 : odd(), odd(), odd(), odd());
        break;
      case 1:
        for (int i = 0; i < 16; ++i) arguments[i] = next() % 2 ? 0 : (uint64_t)odd();
        arguments[0] = (uint64_t)flags & ~0xffull;
        if (next() % 2 || arguments[4] == SIGKILL || arguments[4] == SIGSTOP) arguments[4] = SIGCHLD;
        isa_clone(SYS_clone3, next() % 8 ? (long)arguments : odd(), (long)(next() % 8 ? 88 : next() % 5000), 0, 0, 0);
        break;
      case 2: syscall(next() % 2 ? SYS_execve : SYS_execveat, odd(), odd(), odd(), odd(), odd()); break;
      case 3: syscall(SYS_wait4, odd(), odd(), (int)odd() | WNOHANG, odd()); break;
      case 4: syscall(SYS_waitid, next() % 5, odd(), odd(), (int)odd() | WNOHANG, odd()); break;
      case 5: syscall(next() % 2 ? SYS_setpgid : SYS_getsid, odd(), odd()); break;
      case 6: syscall(next() % 2 ? SYS_kill : SYS_tkill, odd(), 0); break;
      default: syscall(SYS_prlimit64, odd(), next() % 20, 0, odd()); break;
    }
    while (waitpid(-1, &status, WNOHANG | __WALL) > 0) {
    }
  }
  while (waitpid(-1, &status, __WALL) > 0) {
  }
  puts("survived");
}

static void bomb(void) {
  for (;;) fork();
}

int main(int count, char** words) {
  CHECK(count >= 2);
  for (int sig = SIGHUP; sig <= SIGQUIT; ++sig) signal(sig, SIG_DFL);  // nohup(1) and shells may have ignored them
  const char* what = words[1];
  const char* directory = count > 2 ? words[2] : ".";
  const int number = count > 2 ? atoi(words[2]) : 0;
  if (!strcmp(what, "basics")) basics();
  else if (!strcmp(what, "tree")) tree(number);
  else if (!strcmp(what, "many")) many(number);
  else if (!strcmp(what, "threaded")) threaded(number);
  else if (!strcmp(what, "pipeline")) pipeline();
  else if (!strcmp(what, "files")) files(directory);
  else if (!strcmp(what, "shared")) shared(directory);
  else if (!strcmp(what, "signals")) signals();
  else if (!strcmp(what, "orphans")) orphans();
  else if (!strcmp(what, "limit")) limit();
  else if (!strcmp(what, "bomb")) bomb();
  else if (!strcmp(what, "hostile")) hostile(strtoull(directory, NULL, 0));
  else return 2;
  return 0;
}
