// Guarded accesses: what cannot be reached is an outcome, whatever raised it; every other fault is somebody else's.
#include "arch/guarded.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <span>
#include <thread>
#include <vector>

namespace ramet::arch {
namespace {

constexpr std::size_t kPage = 65536;  // a multiple of every host's page size

// Two pages of a memory file.
struct File {
  File() : fd(::memfd_create("guarded", MFD_CLOEXEC)) { resize(2 * kPage), bytes = map(PROT_READ | PROT_WRITE); }
  ~File() { ::munmap(bytes, 2 * kPage), ::close(fd); }
  std::byte* map(int prot) const {
    void* at = ::mmap(nullptr, 2 * kPage, prot, MAP_SHARED, fd, 0);
    EXPECT_NE(at, MAP_FAILED);
    return static_cast<std::byte*>(at);
  }
  void resize(std::size_t size) const { EXPECT_EQ(::ftruncate(fd, static_cast<off_t>(size)), 0); }
  std::uint32_t* word(std::size_t offset) const { return reinterpret_cast<std::uint32_t*>(bytes + offset); }
  int fd;
  std::byte* bytes;
};

struct Guarded : testing::Test {
  Guarded() { install_guard(); }
};

// Every access to a place, which all fail or all succeed.
void expect_reading(std::byte* at, bool reached) {
  std::array<std::byte, 4096> out;
  for (std::size_t n : {1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 33, 64, 100, 511, 512, 4096})
    EXPECT_EQ(guarded_copy(out.data(), at, n), reached) << n;
  EXPECT_EQ(guarded_load(reinterpret_cast<std::uint32_t*>(at)).has_value(), reached);
}
void expect_writing(std::byte* at, bool reached) {
  const std::array<std::byte, 4096> in{};
  for (std::size_t n : {1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 33, 64, 100, 511, 512, 4096})
    EXPECT_EQ(guarded_copy(at, in.data(), n), reached) << n;
  auto* word = reinterpret_cast<std::uint32_t*>(at);
  EXPECT_EQ(guarded_store(word, 1), reached);
  EXPECT_EQ(guarded_compare_exchange(word, 1, 2).has_value(), reached);
  EXPECT_EQ(guarded_compare_exchange(word, 3, 4).has_value(), reached) << "a compare that fails as well";
}

TEST_F(Guarded, CopiesOfEverySizeAndPlaceAreThoseOfMemcpy) {
  std::vector<std::byte> from(2048), to(2048), expected(2048);
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 7 + i / 256 + 1);
  for (std::size_t n = 0; n < 1100; n += n < 600 ? 1 : 37) {
    for (std::size_t a : {0, 1, 3, 8, 13}) {
      for (std::size_t b : {0, 1, 4, 15}) {
        std::ranges::fill(to, std::byte{0}), std::ranges::fill(expected, std::byte{0});
        std::memcpy(&expected[64 + b], &from[a], n);
        ASSERT_TRUE(guarded_copy(&to[64 + b], &from[a], n));
        ASSERT_EQ(to, expected) << n << " bytes from " << a << " to " << b;
      }
    }
  }
}

TEST_F(Guarded, WordsAreReadWrittenAndExchanged) {
  std::uint32_t word = 5;
  EXPECT_EQ(guarded_load(&word), 5u);
  EXPECT_TRUE(guarded_store(&word, 0x8000'0000));
  EXPECT_EQ(guarded_compare_exchange(&word, 1, 2), 0x8000'0000u);
  EXPECT_EQ(word, 0x8000'0000u);
  EXPECT_EQ(guarded_compare_exchange(&word, 0x8000'0000u, ~0u), 0x8000'0000u);
  EXPECT_EQ(guarded_load(&word), ~0u);
}

TEST_F(Guarded, PagesOfAFileThatShrankCannotBeReached) {
  File file;
  expect_reading(file.bytes + kPage, true);
  expect_writing(file.bytes + kPage, true);
  file.resize(kPage);
  expect_reading(file.bytes + kPage, false);
  expect_writing(file.bytes + kPage, false);
  expect_writing(file.bytes, true);
  file.resize(2 * kPage);
  expect_reading(file.bytes + kPage, true);
}

TEST_F(Guarded, AReadOnlyMappingIsReadAndNotWritten) {
  File file;
  std::byte* at = file.map(PROT_READ);
  expect_reading(at, true);
  expect_writing(at, false);
  ::munmap(at, 2 * kPage);
}

TEST_F(Guarded, WhatIsNotMappedOrMayNotBeTouchedCannotBeReached) {
  File file;
  std::byte* at = file.map(PROT_NONE);
  expect_reading(at, false);
  expect_writing(at, false);
  ::munmap(at, 2 * kPage);
  expect_reading(at, false);
  expect_writing(at, false);
  auto* nowhere = reinterpret_cast<std::byte*>(std::uintptr_t{0xdead'0000'0000'0000});  // no address at all
  std::array<std::byte, 4096> buffer{};
  for (std::size_t n : {1, 2, 4, 8, 16, 33, 4096}) {  // not by guarded_copy(), in which AddressSanitizer refuses it
    EXPECT_TRUE(ramet_guarded_copy(buffer.data(), nowhere, n).fault);
    EXPECT_TRUE(ramet_guarded_copy(nowhere, buffer.data(), n).fault);
  }
  EXPECT_FALSE(guarded_load(reinterpret_cast<std::uint32_t*>(nowhere)));
  EXPECT_FALSE(guarded_store(reinterpret_cast<std::uint32_t*>(nowhere), 1));
}

TEST_F(Guarded, ACopyThatReachesOverTheEndFailsAndOneUpToItDoesNot) {
  File file;
  file.resize(kPage);
  std::array<std::byte, 1024> buffer{};
  for (std::size_t n : {1, 2, 4, 5, 8, 12, 16, 30, 32, 48, 64, 65, 500, 512, 777, 1024}) {
    EXPECT_TRUE(guarded_copy(buffer.data(), file.bytes + kPage - n, n)) << n;
    EXPECT_TRUE(guarded_copy(file.bytes + kPage - n, buffer.data(), n)) << n;
    EXPECT_FALSE(guarded_copy(buffer.data(), file.bytes + kPage - n + 1, n)) << n;
    EXPECT_FALSE(guarded_copy(file.bytes + kPage - n + 1, buffer.data(), n)) << n;
  }
  EXPECT_TRUE(guarded_copy(buffer.data(), file.bytes + kPage, 0)) << "nothing is touched";
}

TEST_F(Guarded, WhatLiesBeforeThePageThatCannotBeReachedIsCopied) {
  File file;
  for (std::size_t before : {1, 2, 3, 5, 7, 8, 9, 15, 17, 31, 33, 100, 511, 743, 1024}) {
    for (std::size_t beyond : {1, 2, 7, 8, 30, 32, 100, 512, 1024}) {
      std::vector<std::byte> in(before + beyond, std::byte{0x5a}), out(before + beyond);
      file.resize(0);
      file.resize(kPage);
      EXPECT_FALSE(guarded_copy(file.bytes + kPage - before, in.data(), in.size()));
      EXPECT_EQ(std::memcmp(file.bytes + kPage - before, in.data(), before), 0) << before << " then " << beyond;
      EXPECT_FALSE(guarded_copy(out.data(), file.bytes + kPage - before, out.size()));
      EXPECT_EQ(std::memcmp(out.data(), in.data(), before), 0) << before << " then " << beyond;
    }
  }
}

TEST_F(Guarded, AFileThatShrinksAndGrowsAllTheTimeIsThereOrIsNot) {
  File file;
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop.load(std::memory_order_relaxed)) file.resize(0), file.resize(2 * kPage);
  });
  std::array<std::byte, 4096> pattern, out;
  pattern.fill(std::byte{0x5a});
  unsigned reached = 0, failed = 0, wrong = 0;
  const auto note = [&](bool there) { ++(there ? reached : failed); };
  while (reached < 200 || failed < 200) {
    note(guarded_copy(file.bytes + 100, pattern.data(), pattern.size()));
    const bool there = guarded_copy(out.data(), file.bytes + 100, out.size());
    note(there);
    for (std::byte b : std::span(out).first(there ? out.size() : 0)) wrong += b != std::byte{0} && b != std::byte{0x5a};
    note(guarded_compare_exchange(file.word(kPage), 0, 7).has_value());
    if (const auto value = guarded_load(file.word(kPage))) wrong += *value != 0 && *value != 7;
  }
  stop = true;
  other.join();
  EXPECT_EQ(wrong, 0u);
}

TEST_F(Guarded, ThreadsThatExchangeAWordLoseNothing) {
  File file;
  constexpr std::uint32_t kEach = 20'000;
  const auto add = [&] {
    for (std::uint32_t i = 0; i < kEach; ++i) {
      std::uint32_t seen = *guarded_load(file.word(64));
      for (;;) {
        const std::uint32_t found = *guarded_compare_exchange(file.word(64), seen, seen + 1);
        if (found == seen) break;
        seen = found;
      }
    }
  };
  std::thread other(add);
  add();
  other.join();
  EXPECT_EQ(guarded_load(file.word(64)), 2 * kEach);
}

TEST_F(Guarded, AFaultIsHandledOnASignalStackAsWell) {
  File file;
  file.resize(0);
  std::thread([&] {
    std::vector<std::byte> memory(65536);
    stack_t stack{}, old{};
    stack.ss_sp = memory.data(), stack.ss_size = memory.size();
    ASSERT_EQ(::sigaltstack(&stack, &old), 0);
    for (int i = 0; i < 100; ++i) EXPECT_FALSE(guarded_load(file.word(0)));
    ASSERT_EQ(::sigaltstack(&old, nullptr), 0);
  }).join();
}

#if RAMET_ADDRESS_SANITIZER
TEST_F(Guarded, ACopyBeyondAnObjectIsNoticedByAddressSanitizer) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto small = std::make_unique<std::byte[]>(16), large = std::make_unique<std::byte[]>(64);
  EXPECT_DEATH((void)guarded_copy(small.get(), large.get(), 32), "heap-buffer-overflow");
  EXPECT_DEATH((void)guarded_copy(large.get(), small.get(), 32), "heap-buffer-overflow");
}
#endif

// --- other handlers; each in a process of its own, where ours is not there yet ---

struct OtherHandlers : testing::Test {
  OtherHandlers() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

void handle(int signal, void (*handler)(int, siginfo_t*, void*), int flags = SA_SIGINFO,
            struct sigaction* old = nullptr) {
  struct sigaction action{};
  action.sa_sigaction = handler;
  action.sa_flags = flags;
  ::sigaction(signal, &action, old);
}
void touch(void* at) {
  asm volatile("" : "+r"(at));  // the compiler is not to know where
  *static_cast<volatile char*>(at) = 1;
}
void* unreachable() { return ::mmap(nullptr, kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }
bool guarded(void* at) { return guarded_store(static_cast<std::uint32_t*>(at), 1); }

TEST_F(OtherHandlers, AFaultElsewhereGoesToTheHandlerThatWasThereBefore) {
  EXPECT_EXIT(
      {
        handle(SIGSEGV, [](int, siginfo_t* info, void*) { ::_exit(info->si_code == SEGV_ACCERR ? 42 : 1); });
        install_guard();
        void* at = unreachable();
        if (guarded(at)) ::_exit(2);
        touch(at);
      },
      testing::ExitedWithCode(42), "");
}

TEST_F(OtherHandlers, AHandlerThatComesLaterHandsOnWhatIsOurs) {
  EXPECT_EXIT(
      {
        install_guard();
        static struct sigaction ours;
        static int seen = 0;
        handle(
            SIGSEGV,
            [](int signal, siginfo_t* info, void* context) { ++seen, ours.sa_sigaction(signal, info, context); },
            SA_SIGINFO | SA_ONSTACK, &ours);
        const bool reached = guarded(unreachable());
        ::_exit(!reached && seen == 1 ? 43 : 1);
      },
      testing::ExitedWithCode(43), "");
}

// A library's that hands on to ours, but says something first.
TEST_F(OtherHandlers, OnTopOfOneThatSaysSomethingWhatIsOursIsQuiet) {
  EXPECT_EXIT(
      {
        handle(SIGSEGV, [](int, siginfo_t*, void*) { ::_exit(44); });
        install_guard();
        static struct sigaction ours;
        static int seen = 0;
        handle(
            SIGSEGV,
            [](int signal, siginfo_t* info, void* context) { ++seen, ours.sa_sigaction(signal, info, context); },
            SA_SIGINFO | SA_ONSTACK, &ours);
        install_guard_on_top();
        void* at = unreachable();
        if (guarded(at) || seen != 0) ::_exit(1);
        touch(at);  // it hears of this, hands it on to ours, and so it comes to the one that was there first
      },
      testing::ExitedWithCode(44), "");
}

TEST_F(OtherHandlers, WithoutOneAFaultElsewhereEndsTheProcessAsEver) {
  EXPECT_EXIT(
      {
        ::signal(SIGBUS, SIG_DFL);
        install_guard();
        File file;
        file.resize(0);
        if (guarded(file.bytes)) ::_exit(2);
        touch(file.bytes);
      },
      testing::KilledBySignal(SIGBUS), "");
  EXPECT_EXIT(
      {
        ::signal(SIGSEGV, SIG_DFL);
        install_guard();
        ::raise(SIGSEGV);
        ::_exit(1);
      },
      testing::KilledBySignal(SIGSEGV), "");
}

TEST_F(OtherHandlers, AHandlerForOneTimeIsCalledOnce) {
  EXPECT_EXIT(
      {
        handle(
            SIGSEGV, [](int, siginfo_t*, void*) { (void)!::write(2, "called,", 7); },
            static_cast<int>(SA_SIGINFO | SA_RESETHAND));
        install_guard();
        touch(unreachable());
      },
      testing::KilledBySignal(SIGSEGV), "^called,$");
}

TEST_F(OtherHandlers, AnIgnoredSignalIsIgnoredUnlessItIsAFault) {
  EXPECT_EXIT(
      {
        ::signal(SIGSEGV, SIG_IGN);
        install_guard();
        ::raise(SIGSEGV);
        (void)!::write(2, "alive,", 6);
        touch(unreachable());
      },
      testing::KilledBySignal(SIGSEGV), "^alive,$");
}

}  // namespace
}  // namespace ramet::arch
