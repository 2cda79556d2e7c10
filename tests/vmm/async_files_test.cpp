// What the owner of a file with O_ASYNC is told when the host's epolls say something. The rest:
// tests/guests/file_owner.c.
#include "vmm/linux/files/async.hpp"

#include <gtest/gtest.h>
#include <signal.h>

namespace ramet::vmm {
namespace {

constexpr unsigned kIn = AsyncFiles::bit(POLL_IN), kOut = AsyncFiles::bit(POLL_OUT), kHup = AsyncFiles::bit(POLL_HUP),
                   kErr = AsyncFiles::bit(POLL_ERR), kPri = AsyncFiles::bit(POLL_PRI);

unsigned of_socket(std::uint32_t in, std::uint32_t out, bool unread = false) {
  return AsyncFiles::reasons(false, in, out, unread);
}
unsigned of_pipe(std::uint32_t in, std::uint32_t out) { return AsyncFiles::reasons(true, in, out, true); }

TEST(AsyncFiles, NothingHappenedAndNothingIsTold) {
  EXPECT_EQ(of_socket(0, 0, true), 0u);
  EXPECT_EQ(of_pipe(0, 0), 0u);
}

TEST(AsyncFiles, SocketsTellWhatHappened) {
  EXPECT_EQ(of_socket(EPOLLIN, 0), kIn);
  EXPECT_EQ(of_socket(EPOLLIN | EPOLLRDHUP, 0), kIn);
  EXPECT_EQ(of_socket(EPOLLIN | EPOLLPRI, 0), kIn | kPri);
  EXPECT_EQ(of_socket(EPOLLERR, 0), kErr);
  EXPECT_EQ(of_socket(0, EPOLLOUT), kOut);
  EXPECT_EQ(of_socket(EPOLLIN, EPOLLOUT), kIn | kOut);
}

TEST(AsyncFiles, TheOtherEndOfASocketHasGone) {
  EXPECT_EQ(of_socket(EPOLLIN | EPOLLRDHUP | EPOLLHUP, 0), kHup);
  EXPECT_EQ(of_socket(EPOLLIN | EPOLLRDHUP | EPOLLHUP, 0, true), kHup | kIn) << "it has left something";
  EXPECT_EQ(of_socket(0, EPOLLHUP), 0u) << "the reading side tells it";
  EXPECT_EQ(of_socket(EPOLLHUP, EPOLLOUT | EPOLLHUP), kHup);
}

TEST(AsyncFiles, TheOtherEndOfAPipeHasGone) {
  EXPECT_EQ(of_pipe(EPOLLHUP, 0), kIn);
  EXPECT_EQ(of_pipe(0, EPOLLERR), kOut);
  EXPECT_EQ(of_pipe(EPOLLIN, 0), kIn);
  EXPECT_EQ(of_pipe(0, EPOLLOUT), kOut);
}

}  // namespace
}  // namespace ramet::vmm
