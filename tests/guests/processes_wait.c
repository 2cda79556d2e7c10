// Processes: children are waited for, whatever becomes of them and of their parents.
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "processes.h"

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

static void own_memory(void) {
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
}

static void statuses(void) {
  int status = status_of(child_of(exit_with, (void*)0x142));
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0x42);
  int hold[2];
  CHECK(pipe(hold) == 0);
  pid_t pid = child_of(wait_for_ever, NULL);
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
}

static void waits_by_waitid(void) {
  siginfo_t info;
  pid_t pid = child_of(exit_with, (void*)9);
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
}

// Any child, one of a group, and all at once.
static void any_child(void) {
  pid_t pid;
  int status;
  struct rusage usage;
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

void basics(void) {
  own_memory();
  statuses();
  waits_by_waitid();
  any_child();
}

// --- orphans ---

void orphans(void) {
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
