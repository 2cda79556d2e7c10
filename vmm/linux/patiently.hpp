// Work at the end of a process that must not fail: no caller is left who could handle std::bad_alloc.
#pragma once

#include <unistd.h>

#include <new>

namespace ramet::vmm {

// Calls `f` each millisecond until it does not throw std::bad_alloc. `f` can start again after it threw.
template <class F>
auto patiently(F f) {
  for (;;) {
    try {
      return f();
    } catch (const std::bad_alloc&) {
      ::usleep(1000);
    }
  }
}

}  // namespace ramet::vmm
