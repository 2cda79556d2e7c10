// Threads torture the compiler's atomics in every width: additions, bits, exchanges, comparisons. What is left at the end tells
// of every update that got lost. The same source is compiled for exclusive accesses and for single instructions.
//   atomics [ROUNDS]
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"

enum { THREADS = 4 };
static int rounds = 20000;
static pthread_barrier_t together;

// Side by side on purpose: they are words of the same line, and the narrow ones of the same word.
#define VALUES(type, name)                                                     \
  static struct { type add, sub, both, bits, flip, swap, compare, most; } name; \
  static type swapped_##name[THREADS];
VALUES(uint8_t, bytes)
VALUES(uint16_t, halves)
VALUES(uint32_t, words)
VALUES(uint64_t, doubles)

#define TORTURE(type, v, me)                                                                                 \
  do {                                                                                                       \
    const type bit = (type)(1u << (me));                                                                     \
    for (int i = 0; i < rounds; i++) {                                                                       \
      __atomic_fetch_add(&v.add, (type)(me + 1), __ATOMIC_RELAXED);                                          \
      __atomic_fetch_sub(&v.sub, (type)(me + 3), __ATOMIC_ACQUIRE);                                          \
      (void)__atomic_add_fetch(&v.both, (type)5, __ATOMIC_RELEASE);                                          \
      __atomic_fetch_sub(&v.both, (type)5, __ATOMIC_ACQ_REL);                                                \
      CHECK((__atomic_fetch_or(&v.bits, bit, __ATOMIC_SEQ_CST) & bit) == 0);   /* each has a bit of its own */ \
      CHECK((__atomic_fetch_and(&v.bits, (type)~bit, __ATOMIC_SEQ_CST) & bit) != 0);                         \
      __atomic_fetch_xor(&v.flip, (type)-1, __ATOMIC_SEQ_CST);                                               \
      swapped_##v[me] = (type)(swapped_##v[me] + __atomic_exchange_n(&v.swap, (type)(me + 1), __ATOMIC_ACQ_REL) - (type)(me + 1)); \
      type seen = __atomic_load_n(&v.compare, __ATOMIC_RELAXED);                                             \
      while (!__atomic_compare_exchange_n(&v.compare, &seen, (type)(seen * 2 + 1 - seen), i % 2, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) { \
      }                                                                                                      \
      seen = __atomic_load_n(&v.most, __ATOMIC_RELAXED);                                                     \
      const type mine = (type)(i * THREADS + me);                                                            \
      while (seen < mine && !__atomic_compare_exchange_n(&v.most, &seen, mine, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) { \
      }                                                                                                      \
    }                                                                                                        \
  } while (0)

static void* torture(void* arg) {
  const int me = (int)(intptr_t)arg;
  pthread_barrier_wait(&together);
  TORTURE(uint8_t, bytes, me);
  TORTURE(uint16_t, halves, me);
  TORTURE(uint32_t, words, me);
  TORTURE(uint64_t, doubles, me);
  return NULL;
}

// What all exchanges took out, and what is there, is what they put in.
#define LEFT(type, v)                                                                                         \
  do {                                                                                                        \
    type sum = v.swap;                                                                                        \
    for (int i = 0; i < THREADS; i++) sum = (type)(sum + swapped_##v[i]);                                     \
    CHECK(sum == 0);                                                                                          \
    CHECK(v.add == (type)(rounds * (1 + 2 + 3 + 4)) && v.sub == (type)-(rounds * (3 + 4 + 5 + 6)));                \
    CHECK(v.both == 0 && v.bits == 0 && v.flip == 0 && v.compare == (type)(rounds * THREADS));                \
    CHECK(sizeof(type) < 4 || v.most == (type)(rounds * THREADS - 1));                              \
    printf("%d bits: ok\n", (int)sizeof(type) * 8);                                                           \
  } while (0)

int main(int argc, char** argv) {
  if (argc > 1) rounds = atoi(argv[1]);
  pthread_t threads[THREADS];
  CHECK(pthread_barrier_init(&together, NULL, THREADS) == 0);
  for (long i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, torture, (void*)i) == 0);
  for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  LEFT(uint8_t, bytes);
  LEFT(uint16_t, halves);
  LEFT(uint32_t, words);
  LEFT(uint64_t, doubles);
  return 0;
}
