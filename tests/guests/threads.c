// 64 threads torture what pthreads offers: locks, conditions, barriers, thread-local storage, creation
// storms, robust mutexes, cancellation, read-write locks, once, semaphores. threads [ROUNDS]
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

enum { kThreads = 64 };
static int rounds = 200;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_t all[kThreads];

static void start(void* (*body)(void*)) {
  for (long i = 0; i < kThreads; ++i) CHECK(pthread_create(&all[i], NULL, body, (void*)i) == 0);
}
static long join(void) {
  long sum = 0;
  for (int i = 0; i < kThreads; ++i) {
    void* result;
    CHECK(pthread_join(all[i], &result) == 0);
    sum += (long)result;
  }
  return sum;
}

// A plain counter is right only if the mutex is.
static long counter;
static void* count(void* arg) {
  for (int i = 0; i < rounds; ++i) {
    pthread_mutex_lock(&lock);
    ++counter;
    pthread_mutex_unlock(&lock);
    if (i % 16 == 0) sched_yield();
  }
  return arg;
}

// A token goes round: each thread waits for its turn.
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static long turn;
static void* pass_token(void* arg) {
  long me = (long)arg;
  const int times = rounds < 100 ? 1 : 4;  // each turn wakes all of them
  for (int i = 0; i < times; ++i) {
    pthread_mutex_lock(&lock);
    while (turn % kThreads != me) pthread_cond_wait(&turned, &lock);
    ++turn;
    pthread_cond_broadcast(&turned);
    pthread_mutex_unlock(&lock);
  }
  return NULL;
}

static pthread_barrier_t barrier;
static long arrived[8];
static void* meet(void* arg) {
  long serial = 0;
  (void)arg;
  for (int i = 0; i < 8; ++i) {
    __atomic_fetch_add(&arrived[i], 1, __ATOMIC_RELAXED);
    if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD) ++serial;
    CHECK(__atomic_load_n(&arrived[i], __ATOMIC_RELAXED) == kThreads);
  }
  return (void*)serial;
}

static __thread long own = 7;
static __thread char own_array[10000];
static pthread_key_t key;
static long destroyed;
static void destroy(void* value) { __atomic_fetch_add(&destroyed, (long)value, __ATOMIC_RELAXED); }
static void* thread_local_storage(void* arg) {
  CHECK(own == 7 && own_array[9999] == 0);
  own = (long)arg;
  memset(own_array, (int)own, sizeof own_array);
  pthread_setspecific(key, (void*)(own + 1));
  sched_yield();
  CHECK(own == (long)arg && own_array[5000] == (char)own);
  CHECK(pthread_getspecific(key) == (void*)(own + 1));
  return (void*)own;
}

static void* nothing(void* arg) { return arg; }
static void* storm(void* arg) {
  long sum = 0;
  (void)arg;
  for (int i = 0; i < 8; ++i) {
    pthread_t child;
    void* result;
    int rc;
    while ((rc = pthread_create(&child, NULL, nothing, (void*)1)) == EAGAIN) sched_yield();
    CHECK(rc == 0);
    CHECK(pthread_join(child, &result) == 0);
    sum += (long)result;
  }
  return (void*)sum;
}

static pthread_mutex_t robust;
static void* die_with_lock(void* arg) {
  pthread_mutex_lock(&robust);
  return arg;
}
static void robust_mutexes(void) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  CHECK(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0);
  CHECK(pthread_mutex_init(&robust, &attributes) == 0);
  pthread_t child;
  CHECK(pthread_create(&child, NULL, die_with_lock, NULL) == 0);
  CHECK(pthread_join(child, NULL) == 0);
  CHECK(pthread_mutex_lock(&robust) == EOWNERDEAD);
  CHECK(pthread_mutex_consistent(&robust) == 0);
  CHECK(pthread_mutex_unlock(&robust) == 0);
  CHECK(pthread_mutex_lock(&robust) == 0);
  puts("robust mutex: owner died, recovered");
}

static sem_t ready;
static long cleaned;
static void clean(void* arg) { cleaned += (long)arg; }
static void* wait_for_cancel(void* arg) {
  pthread_cleanup_push(clean, (void*)5);
  sem_post(&ready);
  for (;;) pause();
  pthread_cleanup_pop(0);
  return arg;
}
static void* spin_for_cancel(void* arg) {
  pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
  sem_post(&ready);
  for (volatile long i = 0;; ++i) {}
  return arg;
}
static void cancellation(void) {
  void* (*bodies[])(void*) = {wait_for_cancel, spin_for_cancel};
  CHECK(sem_init(&ready, 0, 0) == 0);
  for (int i = 0; i < 2; ++i) {
    pthread_t child;
    void* result;
    CHECK(pthread_create(&child, NULL, bodies[i], NULL) == 0);
    CHECK(sem_wait(&ready) == 0);
    CHECK(pthread_cancel(child) == 0);
    CHECK(pthread_join(child, &result) == 0);
    CHECK(result == PTHREAD_CANCELED);
  }
  CHECK(cleaned == 5);
  puts("cancelled a waiting and a spinning thread");
}

static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static long pair[2];
static void* read_and_write(void* arg) {
  for (int i = 0; i < 50; ++i) {
    if ((i + (long)arg) % 8 == 0) {
      pthread_rwlock_wrlock(&rwlock);
      ++pair[0];
      sched_yield();
      ++pair[1];
    } else {
      pthread_rwlock_rdlock(&rwlock);
      CHECK(pair[0] == pair[1]);
    }
    pthread_rwlock_unlock(&rwlock);
  }
  return NULL;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static long once_count;
static void initialise(void) { ++once_count; }
static void* call_once(void* arg) {
  pthread_once(&once, initialise);
  return arg;
}

static void timed_waits(void) {
  struct timespec now, until;
  clock_gettime(CLOCK_REALTIME, &now);
  until = now;
  until.tv_nsec += 2000000;
  if (until.tv_nsec >= 1000000000) until.tv_nsec -= 1000000000, ++until.tv_sec;
  pthread_mutex_lock(&lock);
  CHECK(pthread_cond_timedwait(&turned, &lock, &until) == ETIMEDOUT);
  pthread_mutex_unlock(&lock);
  clock_gettime(CLOCK_REALTIME, &now);
  CHECK(now.tv_sec > until.tv_sec || (now.tv_sec == until.tv_sec && now.tv_nsec >= until.tv_nsec));
  puts("a timed wait ended, not early");
}

int main(int argc, char** argv) {
  if (argc > 1) rounds = atoi(argv[1]);
  start(count);
  join();
  printf("mutex: %ld\n", counter - (long)kThreads * rounds);
  start(pass_token);
  join();
  printf("token: %ld turns\n", turn);
  CHECK(pthread_barrier_init(&barrier, NULL, kThreads) == 0);
  start(meet);
  printf("barrier: %ld serial threads\n", join());
  CHECK(pthread_key_create(&key, destroy) == 0);
  start(thread_local_storage);
  printf("thread-local: %ld", join());
  printf(", destroyed %ld\n", destroyed);
  start(storm);
  printf("storm: %ld threads\n", join());
  robust_mutexes();
  cancellation();
  start(read_and_write);
  join();
  printf("read-write lock: %ld\n", pair[0]);
  start(call_once);
  join();
  printf("once: %ld\n", once_count);
  timed_waits();
  return 0;
}
