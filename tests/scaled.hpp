#pragma once

#include <cstdlib>
#include <cstring>

namespace ramet::test {

// How often a test repeats something: less under sanitizers, and on emulated hosts (SCALE=small).
inline unsigned scaled([[maybe_unused]] unsigned full, unsigned small) {
#if defined(RAMET_SANITIZED)
  return small;
#else
  const char* scale = std::getenv("SCALE");
  return scale && std::strcmp(scale, "small") == 0 ? small : full;
#endif
}

}  // namespace ramet::test
