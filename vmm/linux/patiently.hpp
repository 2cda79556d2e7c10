// What must be done at the end of a process, when nobody is left to be told that the host has no memory for it.
#pragma once

#include <unistd.h>

#include <new>

namespace ramet::vmm {

// Again and again, until there is memory. `f` may begin anew after it threw.
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
