// Devices that hold pins, and whose memory those are in.
#include <sys/ioctl.h>

#include "tests/vmm/files_guest.hpp"
#include "vmm/linux/files/pin_holders.hpp"
#include "vmm/linux/files/state.hpp"
#include "vmm/linux/uring/gup_test.hpp"

namespace ramet::vmm {
namespace {

struct Range {
  std::uint64_t address, bytes;
  std::uint32_t flags;
};
constexpr std::uint64_t kStart = _IOW('g', 7, Range), kRead = _IOW('g', 9, std::uint64_t);

std::int64_t start(Guest& g, std::int64_t fd) {
  return g.call("ioctl", {as_word(fd), kStart, g.put_object(Range{g.buffer + 65536, mm::kPageSize, 1})});
}
std::int64_t read(Guest& g, std::int64_t fd) {
  return g.call("ioctl", {as_word(fd), kRead, g.put_object(g.buffer + 131072)});
}

TEST(Devices, WhatAChildPinsByAnInheritedDescriptorIsLetGoBeforeItsMemoryGoes) {
  Guest parent({});
  const std::int64_t fd = parent.open(kGupTestPath, O_RDWR);
  ASSERT_GE(fd, 0);
  {
    Guest child({});
    const auto inherited = child.process->files.install(parent.process->files.get(static_cast<int>(fd)), false);
    ASSERT_TRUE(inherited);
    ASSERT_EQ(start(child, *inherited), 0);
    EXPECT_EQ(read(parent, fd), 0);
    let_go_of_pins(*child.process);  // as its end does
    EXPECT_EQ(read(parent, fd), -EINVAL);
  }
  EXPECT_EQ(start(parent, fd), 0);
}

TEST(Devices, APinThatIsMadeAgainAndAgainIsKnownOnce) {
  Guest g({});
  const std::int64_t fd = g.open(kGupTestPath, O_RDWR);
  Devices& devices = *g.process->files.state().devices;
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(start(g, fd), 0);
    ASSERT_EQ(g.call("ioctl", {as_word(fd), _IO('g', 8), 0}), 0);
  }
  EXPECT_EQ(devices.known(), 1u);
}

}  // namespace
}  // namespace ramet::vmm
