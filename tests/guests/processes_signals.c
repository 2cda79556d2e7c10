// Processes: signals between them, groups, stopping and going on, and waits that signals interrupt.
#define _GNU_SOURCE
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>

#include "processes.h"

enum { kStops = 1000 };
static void stop_often(void* unused) {
  (void)unused;
  for (int i = 0; i < kStops; ++i) CHECK(raise(SIGSTOP) == 0);
  _exit(0);
}

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

static void parent_and_child(void) {
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
}

// A group of three, one of them its leader.
static void groups(void) {
  pid_t pid;
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
}

// Stopping: told to the parent, by wait and by signal.
static void stops(void) {
  pid_t pid;
  int status;
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
}

// Children that nobody waits for.
static void ignored_children(void) {
  pid_t pid;
  signal(SIGCHLD, SIG_IGN);
  for (int i = 0; i < 5; ++i) child_of(exit_with, (void*)1);
  CHECK_ERRNO(wait(NULL), ECHILD);
  handle(SIGCHLD, SA_NOCLDWAIT);
  pid = child_of(exit_with, (void*)1);
  CHECK_ERRNO(waitpid(pid, NULL, 0), ECHILD);
  signal(SIGCHLD, SIG_DFL);
  puts("ignored children");
}

// A signal while the parent waits: the handler runs, and the wait goes on or ends.
static void interrupted_waits(void) {
  pid_t parent = getpid(), pid;
  int status;
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

void signals(void) {
  block(SIGUSR1);
  block(SIGUSR2);
  block(SIGCHLD);
  handle(SIGUSR1, 0);
  handle(SIGUSR2, 0);
  handle(SIGCHLD, 0);
  parent_and_child();
  groups();
  stops();
  ignored_children();
  interrupted_waits();
}
