#include "tests/scarce.hpp"

#include <cstdlib>
#include <new>

namespace ramet::test::scarce {

thread_local long allocations_left = -1;
std::atomic<bool> failed = false;

namespace {
void* allocate(std::size_t bytes) {
  if (allocations_left >= 0 && allocations_left-- == 0) {
    failed = true;
    return nullptr;
  }
  return std::malloc(bytes ? bytes : 1);
}
}  // namespace

}  // namespace ramet::test::scarce

// Of the whole program.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  if (void* at = ramet::test::scarce::allocate(bytes)) return at;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return ramet::test::scarce::allocate(bytes);
}
[[gnu::noinline]] void operator delete(void* at) noexcept { std::free(at); }
[[gnu::noinline]] void operator delete(void* at, std::size_t) noexcept { std::free(at); }
