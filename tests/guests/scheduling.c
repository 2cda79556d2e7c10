// Scheduling: policies and priorities are kept by thread, inherited, and changed by who may.
#define _GNU_SOURCE
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

enum { kUser = 4341, kNobody = 4194303 };  // no process has the second one's number
enum { kProcess = 1, kGroup, kOfUser };    // IOPRIO_WHO_*
enum { kRealTime = 1, kBestEffort, kIdle };
static int io(int class, int level) { return class << 13 | level; }

struct attributes {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
  uint32_t util_min, util_max;
};
static long set(int tid, struct attributes* a) { return syscall(SYS_sched_setattr, tid, a, 0); }
static struct attributes get(int tid) {
  struct attributes a;
  memset(&a, 0xff, sizeof a);
  CHECK(syscall(SYS_sched_getattr, tid, &a, 48, 0) == 0 && a.size == 48 && a.util_min == UINT32_MAX);
  return a;
}
static int policy(int tid, int to, int priority) {
  const struct sched_param p = {priority};
  return sched_setscheduler(tid, to, &p);
}

static void ends_well(pid_t child) {
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void refused(void) {
  struct sched_param p = {1};
  CHECK_ERRNO(sched_setparam(0, &p), EINVAL);
  CHECK_ERRNO(policy(0, SCHED_OTHER, 1), EINVAL);
  CHECK_ERRNO(policy(0, SCHED_FIFO, 0), EINVAL);
  CHECK_ERRNO(policy(0, SCHED_RR, 100), EINVAL);
  CHECK_ERRNO(policy(0, 77, 0), EINVAL);
  CHECK_ERRNO(policy(0, -1, 0), EINVAL);
  CHECK_ERRNO(policy(-1, SCHED_BATCH, 0), EINVAL);
  CHECK_ERRNO(policy(kNobody, SCHED_BATCH, 0), ESRCH);
  CHECK_ERRNO(sched_getscheduler(-1), EINVAL);
  CHECK_ERRNO(sched_getscheduler(kNobody), ESRCH);
  CHECK_ERRNO(sched_getparam(kNobody, &p), ESRCH);
  CHECK_ERRNO(sched_getparam(0, NULL), EINVAL);
  CHECK_ERRNO(sched_get_priority_max(77), EINVAL);
  CHECK(sched_get_priority_max(SCHED_RR) == 99 && sched_get_priority_min(SCHED_FIFO) == 1 && sched_get_priority_max(SCHED_IDLE) == 0);
  struct attributes a = {.size = 20};
  CHECK_ERRNO(set(0, &a), E2BIG);
  CHECK(a.size >= 48);
  CHECK_ERRNO(syscall(SYS_sched_setattr, 0, &a, 1), EINVAL);
  CHECK_ERRNO(syscall(SYS_sched_setattr, 0, NULL, 0), EINVAL);
  CHECK_ERRNO(syscall(SYS_sched_getattr, 0, &a, 47, 0), EINVAL);
  CHECK_ERRNO(syscall(SYS_sched_getattr, kNobody, &a, 48, 0), ESRCH);
  char large[200] = {0};
  a = (struct attributes){.size = sizeof large, .nice = getpriority(PRIO_PROCESS, 0)};
  memcpy(large, &a, sizeof a);
  CHECK(syscall(SYS_sched_setattr, 0, large, 0) == 0);
  large[199] = 1;
  CHECK_ERRNO(syscall(SYS_sched_setattr, 0, large, 0), E2BIG);
  a = (struct attributes){.size = 48, .flags = 1ull << 40};
  CHECK_ERRNO(set(0, &a), EINVAL);
  CHECK_ERRNO(syscall(SYS_ioprio_get, 9, 0), EINVAL);
  CHECK_ERRNO(syscall(SYS_ioprio_get, kProcess, kNobody), ESRCH);
  CHECK_ERRNO(syscall(SYS_ioprio_set, kProcess, kNobody, io(kBestEffort, 1)), ESRCH);
  CHECK_ERRNO(syscall(SYS_ioprio_set, kProcess, 0, io(0, 1)), EINVAL);
  CHECK_ERRNO(syscall(SYS_ioprio_set, kProcess, 0, io(4, 0)), EINVAL);
}

static pthread_barrier_t barrier;
static volatile pid_t other;
static void* has_its_own(void* unused) {
  CHECK(sched_getscheduler(0) == SCHED_BATCH && syscall(SYS_ioprio_get, kProcess, 0) == io(kBestEffort, 3));  // its creator's
  CHECK(policy(0, SCHED_IDLE, 0) == 0 && syscall(SYS_ioprio_set, kProcess, 0, io(kIdle, 0)) == 0);
  other = gettid();
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);
  CHECK(sched_getscheduler(0) == SCHED_BATCH);
  return unused;
}

static void kept(void) {
  CHECK(policy(0, SCHED_BATCH, 0) == 0 && sched_getscheduler(getpid()) == SCHED_BATCH);
  struct sched_param p = {9};
  CHECK(sched_getparam(0, &p) == 0 && p.sched_priority == 0 && sched_setparam(0, &p) == 0);
  struct attributes a = get(0);
  CHECK(a.policy == SCHED_BATCH && a.flags == 0 && a.nice == getpriority(PRIO_PROCESS, 0) && a.priority == 0);
  const int nice = a.nice + 2;
  a.nice = nice, a.policy = SCHED_OTHER, a.size = 0;  // the size that it had first
  CHECK(set(0, &a) == 0 && getpriority(PRIO_PROCESS, 0) == nice && sched_getscheduler(0) == SCHED_OTHER);
  a = (struct attributes){.size = 48, .policy = SCHED_BATCH, .flags = 0x10};  // SCHED_FLAG_KEEP_PARAMS, with which the policy stays
  CHECK(set(0, &a) == 0 && getpriority(PRIO_PROCESS, 0) == nice && sched_getscheduler(0) == SCHED_OTHER);
  CHECK(policy(0, SCHED_BATCH, 0) == 0);
  a = (struct attributes){.size = 48, .policy = 5, .flags = 0x8, .nice = nice + 1};  // SCHED_FLAG_KEEP_POLICY
  CHECK(set(0, &a) == 0 && getpriority(PRIO_PROCESS, 0) == nice + 1 && sched_getscheduler(0) == SCHED_BATCH);
  CHECK(syscall(SYS_ioprio_set, kProcess, 0, io(kBestEffort, 3)) == 0);

  pthread_t thread;
  CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0 && pthread_create(&thread, NULL, has_its_own, NULL) == 0);
  pthread_barrier_wait(&barrier);
  CHECK(sched_getscheduler(0) == SCHED_BATCH && sched_getscheduler(other) == SCHED_IDLE && get(other).policy == SCHED_IDLE);
  CHECK(syscall(SYS_ioprio_get, kProcess, 0) == io(kBestEffort, 3) && syscall(SYS_ioprio_get, kProcess, other) == io(kIdle, 0));
  CHECK(getpgid(other) == getpgrp() && getsid(other) == getsid(0) && kill(other, 0) == 0);  // which take either
  struct rlimit limit, same;
  CHECK(prlimit(other, RLIMIT_NOFILE, NULL, &limit) == 0 && getrlimit(RLIMIT_NOFILE, &same) == 0 && limit.rlim_cur == same.rlim_cur);
  if (getuid() == 0) CHECK(policy(other, SCHED_BATCH, 0) == 0);
  else if (policy(other, SCHED_BATCH, 0) != 0) CHECK(errno == EPERM);
  if (sched_getscheduler(other) == SCHED_BATCH) pthread_barrier_wait(&barrier), pthread_join(thread, NULL);

  struct timespec slice = {-1, -1};
  CHECK(sched_rr_get_interval(0, &slice) == 0 && slice.tv_sec == 0 && slice.tv_nsec >= 0);
  pid_t child = fork();
  if (child == 0) {
    CHECK(sched_getscheduler(0) == SCHED_BATCH && syscall(SYS_ioprio_get, kProcess, 0) == io(kBestEffort, 3));
    CHECK(setpgid(0, 0) == 0 && syscall(SYS_ioprio_get, kGroup, 0) == io(kBestEffort, 3));
    CHECK(policy(0, SCHED_BATCH | SCHED_RESET_ON_FORK, 0) == 0 && sched_getscheduler(0) == (SCHED_BATCH | SCHED_RESET_ON_FORK));
    CHECK(get(0).flags == 1);
    execl("/proc/self/exe", "scheduling", "executed", NULL);
    _exit(2);
  }
  ends_well(child);
  puts("each thread has its policy");
}

static int executed(void) {
  CHECK(sched_getscheduler(0) == (SCHED_BATCH | SCHED_RESET_ON_FORK) && syscall(SYS_ioprio_get, kProcess, 0) == io(kBestEffort, 3));
  pid_t child = fork();
  if (child == 0) _exit(sched_getscheduler(0) != SCHED_BATCH);
  ends_well(child);
  return 0;
}

// Of who runs this as root, where root may.
static void real_time(void) {
  if (getuid() != 0) return;
  pid_t child = fork();
  if (child == 0) {
    struct sched_param p = {0};
    struct timespec slice;
    if (policy(0, SCHED_RR, 20) != 0) _exit(0);
    CHECK(sched_getscheduler(0) == SCHED_RR && sched_getparam(0, &p) == 0 && p.sched_priority == 20);
    CHECK(sched_rr_get_interval(0, &slice) == 0 && slice.tv_nsec == 100000000);
    CHECK(get(0).priority == 20 && get(0).policy == SCHED_RR);
    p.sched_priority = 30;
    CHECK(sched_setparam(0, &p) == 0 && sched_getscheduler(0) == SCHED_RR && get(0).priority == 30);
    CHECK(policy(0, SCHED_FIFO | SCHED_RESET_ON_FORK, 3) == 0);
    pid_t grandchild = fork();
    if (grandchild == 0) _exit(sched_getscheduler(0) != SCHED_OTHER || getpriority(PRIO_PROCESS, 0) != 0);
    ends_well(grandchild);
    // A limit lets a user have what he has, up to it.
    const struct rlimit five = {5, 5};
    if (setrlimit(RLIMIT_RTPRIO, &five) == 0 && setresuid(kUser, kUser, kUser) == 0) {
      CHECK(policy(0, SCHED_RR | SCHED_RESET_ON_FORK, 5) == 0);
      CHECK_ERRNO(policy(0, SCHED_RR | SCHED_RESET_ON_FORK, 6), EPERM);
    }
    _exit(0);
  }
  ends_well(child);
}

static void users(void) {
  const pid_t parent = getuid() == 0 ? getpid() : 0;
  const struct rlimit nothing = {0, 0};
  pid_t child = fork();
  if (child == 0) {
    CHECK(setrlimit(RLIMIT_RTPRIO, &nothing) == 0 && setrlimit(RLIMIT_NICE, &nothing) == 0);
    if (parent) CHECK(setgroups(0, NULL) == 0 && setresgid(kUser, kUser, kUser) == 0 && setresuid(kUser, kUser, kUser) == 0);
    CHECK_ERRNO(policy(0, SCHED_FIFO, 1), EPERM);
    struct attributes a = {.size = 48, .policy = SCHED_BATCH, .nice = getpriority(PRIO_PROCESS, 0) - 1};
    CHECK_ERRNO(set(0, &a), EPERM);
    CHECK_ERRNO(syscall(SYS_ioprio_set, kProcess, 0, io(kRealTime, 4)), EPERM);
    CHECK(syscall(SYS_ioprio_set, kProcess, 0, io(kIdle, 0)) == 0);
    CHECK(policy(0, SCHED_BATCH | SCHED_RESET_ON_FORK, 0) == 0);
    CHECK_ERRNO(policy(0, SCHED_BATCH, 0), EPERM);
    if (parent) {
      cpu_set_t processors;
      CHECK(sched_getaffinity(parent, sizeof processors, &processors) == 0 && sched_getscheduler(parent) >= 0);
      CHECK_ERRNO(policy(parent, SCHED_BATCH, 0), EPERM);
      CHECK_ERRNO(sched_setaffinity(parent, sizeof processors, &processors), EPERM);
      CHECK_ERRNO(syscall(SYS_ioprio_set, kProcess, parent, io(kBestEffort, 4)), EPERM);
      CHECK_ERRNO(setpriority(PRIO_PROCESS, (id_t)parent, 19), EPERM);
      CHECK_ERRNO(prlimit(parent, RLIMIT_NOFILE, NULL, &(struct rlimit){0}), EPERM);
    }
    CHECK(policy(0, SCHED_IDLE | SCHED_RESET_ON_FORK, 0) == 0);
    CHECK_ERRNO(policy(0, SCHED_OTHER | SCHED_RESET_ON_FORK, 0), EPERM);
    _exit(0);
  }
  ends_well(child);
  puts("and users theirs");
}

int main(int argc, char** argv) {
  (void)argv;
  if (argc == 2) return executed();
  refused();
  users();
  real_time();
  kept();
  return 0;
}
