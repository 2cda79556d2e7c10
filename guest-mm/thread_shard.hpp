// A small number for each thread, to spread counters that many threads add to: modulo a few, two threads rarely have
// the same number, so that they rarely meet on one cache line.
#pragma once

#include <atomic>

namespace ramet::mm {

inline unsigned thread_shard() {
  static constinit std::atomic<unsigned> given{0};  // pairs with nothing: any number is right
  static constinit thread_local unsigned mine = 0;  // 0: none yet
  if (mine == 0) [[unlikely]]
    mine = given.fetch_add(1, std::memory_order_relaxed) + 1;
  return mine;
}

}  // namespace ramet::mm
