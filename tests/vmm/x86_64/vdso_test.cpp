// The vDSO in a program's memory, the clocks that it tells, and how an interrupted thread leaves it.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/auxv.h>

#include "arch/x86_64/fault_signal.hpp"
#include "arch/x86_64/vdso.hpp"
#include "tests/vmm/x86_64/handled_guest.hpp"
#include "vmm/host_vdso.hpp"
#include "vmm/linux/program/vdso.hpp"
#include "vmm/linux/time/clocks.hpp"

namespace ramet::vmm {
namespace {

using arch::x86_64::kUserEnd;
constexpr VdsoFunctions kHost{.clock_gettime = kUserEnd + 0x1000,
                              .clock_getres = kUserEnd + 0x2000,
                              .gettimeofday = kUserEnd + 0x3000,
                              .time = kUserEnd + 0x4000,
                              .getcpu = kUserEnd + 0x5000};
constexpr mm::Gva kAt = 0x7000'0000'0000;

std::int64_t nanos(const timespec& t) { return t.tv_sec * 1'000'000'000 + t.tv_nsec; }
std::int64_t now(clockid_t clock) {
  timespec t;
  ::clock_gettime(clock, &t);
  return nanos(t);
}

// --- clocks ---

TEST(Clocks, GoOnFromWhatAProgramSawLast) {
  Clocks clocks;
  EXPECT_EQ(nanos(clocks.offset(CLOCK_MONOTONIC)), 0);
  // 1 s and 2 s: long before now; 2^33 s: far in the future.
  const Clocks::Now seen{timespec{1, 999'999'999}, timespec{2, 0}, timespec{1ll << 33, 5}};
  clocks.go_on_from(seen);
  const auto shown = clocks.now();
  for (std::size_t i = 0; i < seen.size(); ++i) {
    EXPECT_GE(shown[i].tv_nsec, 0);
    EXPECT_LT(shown[i].tv_nsec, 1'000'000'000);
    EXPECT_TRUE(shown[i].tv_sec > seen[i].tv_sec ||
                (shown[i].tv_sec == seen[i].tv_sec && shown[i].tv_nsec >= seen[i].tv_nsec));
  }
  for (const clockid_t clock :
       {CLOCK_REALTIME, CLOCK_REALTIME_COARSE, CLOCK_TAI, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID})
    EXPECT_EQ(nanos(clocks.offset(clock)), 0) << clock;
  EXPECT_EQ(nanos(clocks.offset(CLOCK_MONOTONIC_COARSE)), nanos(clocks.offset(CLOCK_MONOTONIC)));
  EXPECT_EQ(nanos(clocks.offset(CLOCK_BOOTTIME_ALARM)), nanos(clocks.offset(CLOCK_BOOTTIME)));
}

TEST(Clocks, DeadlinesAreMovedToTheHostsClocksWithoutOverflow) {
  Clocks clocks;
  clocks.go_on_from({timespec{1, 500}, timespec{1, 0}, timespec{1ll << 40, 0}});
  // Behind the host, and before it.
  for (const clockid_t clock : {CLOCK_MONOTONIC, CLOCK_BOOTTIME}) {
    const timespec host{1ll << 41, 123'456'789}, there = clocks.guest(clock, host), back = clocks.host(clock, there);
    EXPECT_EQ(back.tv_sec, host.tv_sec);
    EXPECT_EQ(back.tv_nsec, host.tv_nsec);
  }
  EXPECT_EQ(clocks.host(CLOCK_MONOTONIC, {INT64_MAX, 999'999'999}).tv_sec, INT64_MAX);
  EXPECT_EQ(nanos(clocks.host(CLOCK_BOOTTIME, {3, 7})), 0) << "before the host's clock began";
  EXPECT_EQ(nanos(clocks.host_timer(CLOCK_BOOTTIME, {3, 7})), 1) << "0 would stop the timer";
  EXPECT_EQ(nanos(clocks.host_timer(CLOCK_MONOTONIC, {0, 0})), 0);
  EXPECT_EQ(clocks.host_timer(CLOCK_MONOTONIC, {-1, 0}).tv_sec, -1) << "the host refuses it";
  EXPECT_EQ(nanos(clocks.host(CLOCK_REALTIME, {3, 7})), 3'000'000'007);
}

// --- its pages ---

struct Pages {
  Guest g{{}};
  arch::VdsoData data() { return g.get<arch::VdsoData>(kAt); }
  Image& image() { return *g.process->image(); }
};

TEST(VdsoPages, OnAMachineWithoutTheHostsItsDataSaysSo) {
  Pages p;
  ASSERT_TRUE(map_vdso(p.image(), kAt, {}));
  EXPECT_EQ(p.image().vdso, kAt + VDSO_PAGE);
  const auto image = arch::x86_64::vdso_image();
  EXPECT_EQ(p.g.bytes(kAt + VDSO_PAGE, image.size()),
            std::string(reinterpret_cast<const char*>(image.data()), image.size()));
  EXPECT_EQ(p.data().same | p.data().moved, 0u);
  EXPECT_EQ(p.data().host.clock_gettime, 0u);
  EXPECT_FALSE(write_user(p.g.memory(), kAt, 1)) << "the program cannot write it";
  EXPECT_FALSE(write_user(p.g.memory(), kAt + VDSO_PAGE, 1));
}

TEST(VdsoPages, WhatASnapshotSaysOfAnotherHostIsWrittenAnew) {
  Pages p;
  Clocks moved;
  moved.go_on_from({timespec{1, 0}, timespec{1, 0}, timespec{1, 0}});
  p.g.machine.vdso = kHost;
  ASSERT_TRUE(map_vdso(p.image(), kAt, {}));
  EXPECT_EQ(p.data().host.getcpu, kHost.getcpu);
  EXPECT_EQ(p.data().moved, 0u);
  EXPECT_TRUE(p.data().same & 1u << CLOCK_MONOTONIC);
  ASSERT_TRUE(renew_vdso(p.image(), moved));
  EXPECT_FALSE(p.data().same & 1u << CLOCK_MONOTONIC);
  EXPECT_TRUE(p.data().moved & 1u << CLOCK_MONOTONIC_COARSE);
  EXPECT_TRUE(p.data().same & 1u << CLOCK_REALTIME);
  EXPECT_EQ(p.data().offsets[CLOCK_BOOTTIME].seconds, moved.offset(CLOCK_BOOTTIME).tv_sec);
  EXPECT_EQ(p.data().offsets[CLOCK_BOOTTIME].nanoseconds, moved.offset(CLOCK_BOOTTIME).tv_nsec);
  p.g.machine.vdso = {};
  ASSERT_TRUE(renew_vdso(p.image(), moved));
  EXPECT_EQ(p.data().same | p.data().moved, 0u);
  EXPECT_EQ(p.data().host.clock_gettime, 0u);
  EXPECT_FALSE(write_user(p.g.memory(), kAt, 1));
}

TEST(VdsoPages, AProgramThatTookThemAwayKeepsWhatItHasThere) {
  Pages p;
  ASSERT_TRUE(map_vdso(p.image(), kAt, {}));
  p.g.machine.vdso = kHost;
  ASSERT_TRUE(p.g.memory().unmap(kAt, 2 * VDSO_PAGE));
  EXPECT_TRUE(renew_vdso(p.image(), {}));
  ASSERT_TRUE(p.g.memory().map({.address = kAt,
                                .length = VDSO_PAGE,
                                .prot = mm::Prot::Read | mm::Prot::Write,
                                .fixed = true,
                                .backing = nullptr,
                                .name = "own"}));
  EXPECT_TRUE(renew_vdso(p.image(), {}));
  EXPECT_EQ(p.data().host.clock_gettime, 0u);
  p.image().vdso = 0;
  EXPECT_TRUE(renew_vdso(p.image(), {}));
}

TEST(HostVdso, FunctionsAreFoundInOurOwnImage) {
  const VdsoFunctions ours = find_functions(arch::x86_64::vdso_image().data());
  const std::set<std::uint64_t> places{ours.clock_gettime, ours.clock_getres, ours.gettimeofday, ours.time,
                                       ours.getcpu};
  EXPECT_EQ(places.size(), 5u);
  EXPECT_FALSE(places.contains(0));
}

TEST(HostVdso, TheHostsTellsTheTime) {
  const HostVdso& host = host_vdso();
  if (!::getauxval(AT_SYSINFO_EHDR)) GTEST_SKIP() << "this host has no vDSO";
  ASSERT_GT(host.image_bytes, 0u);
  ASSERT_GT(host.data_bytes, 0u);
  const auto clock_gettime = reinterpret_cast<int (*)(clockid_t, timespec*)>(
      host.functions_at(::getauxval(AT_SYSINFO_EHDR)).clock_gettime);
  timespec t;
  const std::int64_t before = now(CLOCK_MONOTONIC);
  ASSERT_EQ(clock_gettime(CLOCK_MONOTONIC, &t), 0);
  EXPECT_LE(before, nanos(t));
  EXPECT_LE(nanos(t), now(CLOCK_MONOTONIC));
}

// --- leaving it ---

struct Inside : HandledGuest {
  Inside() {
    machine.vdso = kHost;
    if (!map_vdso(*process->image(), kAt, {})) std::abort();
    handle(SIGUSR1);
    regs()[Rip] = kHost.clock_gettime + 10;
  }
  // The guest comes out.
  void comes_out(Exit::Kind kind, std::uint32_t trap = 0, int sig = 0) {
    Exit e;
    e.kind = kind, e.trap = trap, e.signal = sig, e.code = sig == SIGTRAP ? TRAP_TRACE : 0;
    thread->serve(e);
  }
  void step() { comes_out(Exit::Kind::Exception, arch::x86_64::kVectorDebug, SIGTRAP); }
  void send() {
    siginfo_t info{};
    info.si_signo = SIGUSR1;
    ASSERT_TRUE(send_to_thread(*process, thread->tid, info) == 0);
  }
};

TEST(LeavingTheVdso, ASignalComesWhenTheThreadHasLeftTheHostsAndItsOwn) {
  Inside g;
  g.send();
  g.comes_out(Exit::Kind::Kicked);
  EXPECT_FALSE(g.in_handler());
  EXPECT_TRUE(g.regs()[Rflags] & kTrapFlag);
  g.regs()[Rip] = g.process->image()->vdso + 0x400;
  g.step();
  EXPECT_FALSE(g.in_handler());
  EXPECT_TRUE(g.regs()[Rflags] & kTrapFlag);
  g.regs()[Rip] = LinuxGuest::kCode;
  g.step();
  EXPECT_TRUE(g.in_handler());
  EXPECT_EQ(g.info().si_signo, SIGUSR1) << "not the SIGTRAP";
  EXPECT_EQ(g.frame().context.rip, LinuxGuest::kCode);
  EXPECT_EQ(g.frame().context.rflags & kTrapFlag, 0u);
  EXPECT_FALSE(g.regs()[Rflags] & kTrapFlag);
}

TEST(LeavingTheVdso, WithoutASignalNothingIsStepped) {
  Inside g;
  g.comes_out(Exit::Kind::Kicked);
  EXPECT_FALSE(g.regs()[Rflags] & kTrapFlag);
}

TEST(LeavingTheVdso, OnAMachineWithoutTheHostsSignalsComeAtOnce) {
  Inside g;
  g.machine.vdso = {};
  g.regs()[Rip] = g.process->image()->vdso + 0x400;
  g.send();
  g.comes_out(Exit::Kind::Kicked);
  EXPECT_TRUE(g.in_handler());
}

TEST(LeavingTheVdso, AFaultInThereIsToldAtOnce) {
  Inside g;
  g.handle(SIGSEGV);
  g.regs()[Rip] = kHost.clock_gettime + 10;
  g.comes_out(Exit::Kind::Exception, arch::x86_64::kVectorProtection, SIGSEGV);
  EXPECT_TRUE(g.in_handler());
  EXPECT_EQ(g.info().si_signo, SIGSEGV);
  EXPECT_EQ(g.frame().context.rip, kHost.clock_gettime + 10);
}

TEST(LeavingTheVdso, AGuestThatStepsItselfGetsItsOwnTrap) {
  Inside g;
  g.handle(SIGTRAP);
  g.regs()[Rip] = kHost.clock_gettime + 10;
  g.regs()[Rflags] |= kTrapFlag;
  g.send();
  g.comes_out(Exit::Kind::Kicked);
  g.step();
  ASSERT_TRUE(g.in_handler());
  EXPECT_EQ(g.info().si_signo, SIGUSR1) << "on top of the other";
  g.sigreturn();
  EXPECT_EQ(g.info().si_signo, SIGTRAP);
  EXPECT_NE(g.frame().context.rflags & kTrapFlag, 0u);
}

// Its own code put there, which goes round: the signal comes all the same.
TEST(LeavingTheVdso, WhoNeverLeavesIsInterruptedInside) {
  Inside g;
  g.send();
  g.comes_out(Exit::Kind::Kicked);
  unsigned steps = 0;
  for (; !g.in_handler() && steps < 100'000; ++steps) g.step();
  EXPECT_TRUE(g.in_handler());
  EXPECT_GT(steps, 100u);
  EXPECT_LT(steps, 10'000u);
  EXPECT_EQ(g.frame().context.rip, kHost.clock_gettime + 10);
}

// The host's function may begin anew for ever while it is stepped: it is let run now and then.
TEST(LeavingTheVdso, WhoIsToBeParkedAndDoesNotGetOutByStepsRunsOn) {
  Inside g;
  unsigned steps = 0, runs = 0;
  const auto come_out = [&] {
    while (!g.thread->may_park() && steps + runs < 1'000'000) {
      if (g.regs()[Rflags] & kTrapFlag) ++steps, g.step();
      else ++runs, g.comes_out(Exit::Kind::Kicked);
    }
  };
  for (unsigned i = 0; i < 1000 && runs < 3; ++i) {
    ASSERT_FALSE(g.thread->may_park());
    if (g.regs()[Rflags] & kTrapFlag) ++steps, g.step();
    else ++runs, g.comes_out(Exit::Kind::Kicked);
  }
  EXPECT_EQ(runs, 3u);
  EXPECT_GT(steps, 300u);
  g.regs()[Rip] = LinuxGuest::kCode;
  EXPECT_TRUE(g.thread->may_park());
  g.regs()[Rip] = kHost.clock_gettime + 10;  // a guest's own code, that goes round there: not for ever
  steps = runs = 0;
  come_out();
  EXPECT_TRUE(g.thread->may_park());
  EXPECT_GT(runs, 100u);
}

// The host's vDSO makes a system call where its clock source is none for user code.
TEST(LeavingTheVdso, ACallFromTheHostsTellsTheHostsClock) {
  Inside g;
  g.process->family.clocks.go_on_from({timespec{1, 0}, timespec{1, 0}, timespec{1, 0}});
  const auto told = [&](mm::Gva from) {
    g.regs()[Rip] = from;
    EXPECT_EQ(g.syscall(SYS_clock_gettime, {CLOCK_MONOTONIC, g.buffer}), 0);
    return nanos(g.get<timespec>(g.buffer));
  };
  const std::int64_t before = now(CLOCK_MONOTONIC), offset = nanos(g.process->family.clocks.offset(CLOCK_MONOTONIC));
  ASSERT_NE(offset, 0);
  const std::int64_t host = told(kHost.clock_gettime + 20), guest = told(LinuxGuest::kCode);
  const std::int64_t after = now(CLOCK_MONOTONIC);
  EXPECT_LE(before, host);
  EXPECT_LE(host + offset, guest);
  EXPECT_LE(guest, after + offset);
}

// Other architectures' vDSO has one.
TEST(Signals, AnActionWithoutARestorerCannotBeRun) {
  HandledGuest g;
  const std::array<std::uint64_t, 4> action{LinuxGuest::kHandler, SA_SIGINFO, 0, 0};
  ASSERT_TRUE(g.memory().write(g.buffer, std::as_bytes(std::span(action))));
  ASSERT_EQ(g.syscall(SYS_rt_sigaction, {SIGUSR1, g.buffer, 0, 8}), 0);
  g.raise(SIGUSR1);
  EXPECT_EQ(g.ending().code, SIGSEGV);
}

}  // namespace
}  // namespace ramet::vmm
