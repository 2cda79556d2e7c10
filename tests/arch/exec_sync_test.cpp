// Code that was written as data.
#include "arch/exec_sync.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include "arch/guarded.hpp"

namespace ramet::arch {
namespace {

TEST(ExecSync, PassesOverWhatCannotBeReached) {
  install_guard();
  constexpr std::size_t kPage = 4096;
  auto* const pages = static_cast<std::byte*>(
      ::mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(static_cast<void*>(pages), MAP_FAILED);
  pages[0] = pages[3 * kPage - 1] = std::byte{7};
  ASSERT_EQ(::munmap(pages + kPage, kPage), 0);
  exec_sync(pages + 5, 3 * kPage - 10);
  exec_sync(pages, 0);
  exec_sync(pages + 4, 4);
  EXPECT_EQ(pages[0], std::byte{7});
  EXPECT_EQ(pages[3 * kPage - 1], std::byte{7});
  ::munmap(pages, 3 * kPage);
}

TEST(ExecSync, IsPossibleHere) { EXPECT_EQ(exec_sync_problem(), nullptr); }

}  // namespace
}  // namespace ramet::arch
