// The futex call itself: wait, wake, time-outs, bit sets, requeue, and a lock made of it under contention.
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

static long futex(void* word, int op, uint32_t value, const void* timeout, void* word2, uint32_t value3) {
  return syscall(SYS_futex, word, op, value, timeout, word2, value3);
}

// Drepper's lock: 0 free, 1 taken, 2 taken and somebody may wait.
static uint32_t lock_word;
static long guarded;
static void lock(void) {
  uint32_t expected = 0;
  if (__atomic_compare_exchange_n(&lock_word, &expected, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return;
  while (__atomic_exchange_n(&lock_word, 2, __ATOMIC_ACQUIRE) != 0)
    futex(&lock_word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 2, NULL, NULL, 0);
}
static void unlock(void) {
  if (__atomic_exchange_n(&lock_word, 0, __ATOMIC_RELEASE) == 2) futex(&lock_word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
}
static void* contend(void* arg) {
  for (int i = 0; i < 2000; ++i) {
    lock();
    ++guarded;
    if (i % 64 == 0) sched_yield();
    unlock();
  }
  return arg;
}

static uint32_t gate, second;
static volatile int waiting, woken;
static void* wait_at_gate(void* arg) {
  __atomic_add_fetch(&waiting, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&gate, __ATOMIC_SEQ_CST) == 0) {
    if (arg) futex(&gate, FUTEX_WAIT_BITSET, 0, NULL, NULL, (uint32_t)(uintptr_t)arg);
    else futex(&gate, FUTEX_WAIT, 0, NULL, NULL, 0);
  }
  __atomic_add_fetch(&woken, 1, __ATOMIC_SEQ_CST);
  return NULL;
}

// Memory that came with fork and cannot be written at first: who waits there is found there when it has been.
static uint32_t* inherited;
static volatile int about_to_wait;
static void* wait_for_store(void* arg) {
  about_to_wait = 1;
  while (__atomic_load_n(inherited, __ATOMIC_SEQ_CST) == 7) futex(inherited, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 7, NULL, NULL, 0);
  return arg;
}
static void wait_in_inherited_memory(void) {
  inherited = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(inherited != MAP_FAILED);
  *inherited = 7;
  const pid_t child = fork();
  CHECK(child >= 0);
  CHECK(mprotect(inherited, 4096, PROT_READ) == 0);
  CHECK_ERRNO(futex(inherited, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 6, NULL, NULL, 0), EAGAIN);
  CHECK(futex(inherited, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0) == 0);
  pthread_t waiter;
  CHECK(pthread_create(&waiter, NULL, wait_for_store, NULL) == 0);
  while (!about_to_wait) sched_yield();
  for (int i = 0; i < 1000; ++i) sched_yield();  // most likely it waits by now
  CHECK(mprotect(inherited, 4096, PROT_READ | PROT_WRITE) == 0);
  __atomic_store_n(inherited, 8, __ATOMIC_SEQ_CST);
  CHECK(futex(inherited, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0) >= 0);
  CHECK(pthread_join(waiter, NULL) == 0);
  if (child == 0) _exit(0);
  int status = 1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  puts("inherited read-only memory");
}

int main(void) {
  pthread_t threads[8];
  for (int i = 0; i < 8; ++i) CHECK(pthread_create(&threads[i], NULL, contend, NULL) == 0);
  for (int i = 0; i < 8; ++i) CHECK(pthread_join(threads[i], NULL) == 0);
  printf("lock: %ld\n", guarded);

  struct timespec soon = {.tv_nsec = 2000000};
  uint32_t word = 5;
  CHECK_ERRNO(futex(&word, FUTEX_WAIT, 4, NULL, NULL, 0), EAGAIN);
  CHECK_ERRNO(futex(&word, FUTEX_WAIT, 5, &soon, NULL, 0), ETIMEDOUT);
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  CHECK_ERRNO(futex(&word, FUTEX_WAIT_BITSET, 5, &until, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
  clock_gettime(CLOCK_REALTIME, &until);
  CHECK_ERRNO(futex(&word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 5, &until, NULL, 1), ETIMEDOUT);
  CHECK_ERRNO(futex(&word, FUTEX_WAIT_BITSET, 5, &soon, NULL, 0), EINVAL);
  CHECK_ERRNO(futex((char*)&word + 1, FUTEX_WAIT, 5, &soon, NULL, 0), EINVAL);
  CHECK_ERRNO(futex((void*)16, FUTEX_WAIT, 5, &soon, NULL, 0), EFAULT);
  CHECK_ERRNO(futex(&word, 77, 0, NULL, NULL, 0), ENOSYS);
  CHECK(futex(&word, FUTEX_WAKE, 1, NULL, NULL, 0) == 0);
  puts("time-outs and refusals");

  for (long i = 0; i < 8; ++i) CHECK(pthread_create(&threads[i], NULL, wait_at_gate, (void*)(i % 2 ? 2 : 0L)) == 0);
  while (waiting < 8) sched_yield();
  __atomic_store_n(&gate, 1, __ATOMIC_SEQ_CST);
  while (woken < 8) {
    // All of the requeued ones are woken at their new place, or had not slept yet.
    futex(&gate, FUTEX_WAKE_BITSET, 1, NULL, NULL, 2);
    long n = futex(&gate, FUTEX_CMP_REQUEUE, 1, (void*)(uintptr_t)3, &second, 1);
    CHECK(n >= 0);
    CHECK(futex(&second, FUTEX_WAKE, 100, NULL, NULL, 0) >= 0);
    sched_yield();
  }
  for (int i = 0; i < 8; ++i) CHECK(pthread_join(threads[i], NULL) == 0);
  CHECK_ERRNO(futex(&gate, FUTEX_CMP_REQUEUE, 1, (void*)1, &second, 7), EAGAIN);
  puts("bit sets and requeue");

  // Two addresses of one shared page are one futex.
  uint32_t* shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(shared != MAP_FAILED);
  CHECK_ERRNO(futex(shared, FUTEX_WAIT, 0, &soon, NULL, 0), ETIMEDOUT);
  CHECK(futex(shared, FUTEX_WAKE, 1, NULL, NULL, 0) == 0);
  puts("shared futex");
  wait_in_inherited_memory();
  return 0;
}
