// For the small guest programs: each checks itself, prints what it did, and fails with a line number.
// What they print must not depend on the host, so that a guest run and a native run can be compared.
#pragma once

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                              \
  do {                                                                                                \
    if (!(condition)) {                                                                               \
      int saved = errno;                                                                              \
      fflush(stdout);                                                                                 \
      fprintf(stderr, "%s:%d: not so: %s (errno %d, %s)\n", __FILE__, __LINE__, #condition, saved, strerror(saved)); \
      _Exit(1);                                                                                       \
    }                                                                                                 \
  } while (0)

// The call fails with exactly this errno.
#define CHECK_ERRNO(expression, code)                                                                 \
  do {                                                                                                \
    errno = 0;                                                                                        \
    CHECK((expression) == -1);                                                                        \
    CHECK(errno == (code));                                                                           \
  } while (0)

// An address that no program maps, kept from the compiler's sight.
__attribute__((unused)) static void* volatile wild_address = (void*)8;
