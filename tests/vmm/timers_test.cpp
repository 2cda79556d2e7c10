// Timers of a guest: their end, and the clocks that they may follow.
#include <sys/resource.h>
#include <sys/timerfd.h>

#include <future>

#include "tests/vmm/linux_guest.hpp"
#include "vmm/linux/time/timers.hpp"

namespace ramet::vmm {
namespace {

TEST(Timers, EndAlthoughTheQueueOfSignalsIsFull) {
  LinuxGuest g;
  auto timers = std::make_unique<Timers>(*g.process);
  itimerspec soon{{0, 1}, {0, 1}};
  ASSERT_EQ(timers->set_interval_timer(ITIMER_REAL, soon, nullptr), 0);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_SIGPENDING, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_SIGPENDING, &none), 0);
  auto ended = std::async(std::launch::async, [&] { timers.reset(); });
  EXPECT_EQ(ended.wait_for(std::chrono::seconds(20)), std::future_status::ready) << "it waits for room in the queue";
  ASSERT_EQ(::setrlimit(RLIMIT_SIGPENDING, &before), 0);  // lets it go on
}

// As Linux tells a user without CAP_WAKE_ALARM, whoever ramet's user is.
TEST(Timers, NoCallLetsAGuestWakeTheHost) {
  LinuxGuest g;
  for (int clock : {CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM}) {
    EXPECT_EQ(g.syscall(SYS_timerfd_create, {as_word(clock), 0}), -EPERM);
    EXPECT_EQ(g.syscall(SYS_timerfd_create, {as_word(clock), 1}), -EINVAL);
    EXPECT_EQ(g.syscall(SYS_timer_create, {as_word(clock), 0, g.buffer}), -EPERM);
    const timespec time{0, 1}, wrong{0, -1};
    EXPECT_EQ(g.syscall(SYS_clock_nanosleep, {as_word(clock), 0, g.put_object(time), 0}), -EPERM);
    EXPECT_EQ(g.syscall(SYS_clock_nanosleep, {as_word(clock), TIMER_ABSTIME, g.put_object(time), 0}), -EPERM);
    EXPECT_EQ(g.syscall(SYS_clock_nanosleep, {as_word(clock), 0, g.put_object(wrong), 0}), -EINVAL);
  }
}

}  // namespace
}  // namespace ramet::vmm
