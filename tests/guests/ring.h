// For guests that use io_uring: see check.h.
#pragma once

#include <liburing.h>

#include "check.h"

// What the next completion says.
static inline int completed(struct io_uring* ring) {
  struct io_uring_cqe* cqe;
  int e;
  do e = io_uring_wait_cqe(ring, &cqe);
  while (e == -EINTR);
  CHECK(e == 0);
  const int result = cqe->res;
  io_uring_cqe_seen(ring, cqe);
  return result;
}
