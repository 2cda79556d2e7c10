// For loops that wait for another processor.
#pragma once

namespace ramet::arch {

inline void relax() {
#if defined(__x86_64__)
  asm volatile("pause");
#elif defined(__aarch64__)
  asm volatile("isb");  // YIELD does nothing on most processors; this one lasts as long as PAUSE
#else
#error "unknown architecture"
#endif
}

}  // namespace ramet::arch
