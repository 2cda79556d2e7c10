// A hostile guest whose VM is reset: what it does to memory that a snapshot gave it, with wild calls, is undone each
// time, and the books are right. With a virtual machine, after fork and after a snapshot file:
// tests/guests/wild_inherited.cpp.
#include <linux/io_uring.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <random>

#include "tests/vmm/files_guest.hpp"
#include "vmm/linux/files/state.hpp"
#include "vmm/linux/uring/gup_test.hpp"

namespace ramet::vmm {
namespace {

constexpr std::uint64_t kPage = mm::kPageSize, kPlot = 16 * kPage, kBlock = mm::kBlockSize;

class WildReset : public ::testing::Test {
 protected:
  std::uint64_t below(std::uint64_t n) { return random_() % n; }
  template <class T>
  T one_of(std::initializer_list<T> list) {
    return list.begin()[below(list.size())];
  }
  std::uint64_t place() { return base_ + below(kBytes) / one_of<std::uint64_t>({1, 8}) * 8 % kBytes; }
  std::uint64_t page() { return base_ + below(kBytes / kPage) * kPage; }
  std::uint64_t length() { return below(4) ? 1 + below(6 * kPage) : std::uint64_t{1} << below(64); }

  // A block, and a plot of each kind.
  void lay_out(Guest& g) {
    const std::uint64_t all = static_cast<std::uint64_t>(
        g.call("mmap", {0, kBytes + kBlock, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, as_word(-1), 0}));
    base_ = mm::align_up(all, kBlock);
    const std::int64_t file = g.open("/w/file", O_RDWR | O_CREAT);
    ASSERT_EQ(g.call("ftruncate", {as_word(file), kPlot}), 0);
    std::uint64_t at = base_ + kBlock;
    for (auto [flags, prot] :
         std::initializer_list<std::pair<int, int>>{{MAP_PRIVATE | MAP_ANONYMOUS, PROT_READ},
                                                    {MAP_PRIVATE | MAP_ANONYMOUS, PROT_NONE},
                                                    {MAP_SHARED, PROT_READ | PROT_WRITE},
                                                    {MAP_PRIVATE, PROT_READ | PROT_WRITE},
                                                    {MAP_PRIVATE | MAP_ANONYMOUS, PROT_READ | PROT_EXEC}}) {
      ASSERT_EQ(g.call("mmap", {at, kPlot, PROT_READ | PROT_WRITE, as_word(flags | MAP_FIXED), as_word(file), 0}),
                static_cast<std::int64_t>(at));
      for (std::uint64_t p = 0; p < kPlot; p += kPage)
        ASSERT_TRUE(g.memory().write(at + p, std::as_bytes(std::span(&at, 1))));
      ASSERT_EQ(g.call("mprotect", {at, kPlot, as_word(prot)}), 0);
      at += kPlot;
    }
    for (std::uint64_t p = 0; p < kBlock; p += kPage)
      ASSERT_TRUE(g.memory().write(base_ + p, std::as_bytes(std::span(&p, 1))));
  }

  // Private memory that can be read, as a number.
  std::uint64_t contents(mm::AddressSpace& memory) {
    std::uint64_t sum = 0;
    for (std::uint64_t at = base_; at < base_ + kBytes; at += kPage) {
      std::array<std::uint64_t, kPage / 8> words;
      auto region = memory.find_region(at);
      sum = sum * 31 + (region ? 1 + static_cast<unsigned>(region->prot) : 0);
      if (!region || region->shared || region->backing || !memory.read(at, std::as_writable_bytes(std::span(words))))
        continue;
      for (std::uint64_t w : words) sum = sum * 31 + w;
    }
    return sum;
  }

  void call_wildly(Guest& g, std::int64_t file, std::int64_t device, std::int64_t pipe) {
    const auto fd = as_word(one_of({file, device, pipe}));
    const std::array<std::uint64_t, 4> vector{place(), length(), place(), below(kPage)};
    const std::uint64_t iov = page();
    (void)g.memory().write(iov, std::as_bytes(std::span(vector)));
    g.thread->look_at_signals();                // nothing waits
    switch (below(14)) {
      case 0: g.call("munmap", {page(), length()}); break;
      case 1: g.call("mprotect", {page(), length(), below(8)}); break;
      case 2: g.call("madvise", {page(), length(), below(26)}); break;
      case 3: g.call("mremap", {page(), length(), length(), below(2), place()}); break;
      case 4:
        g.call("mmap", {page(), 1 + below(6 * kPage), below(8),
                        as_word(one_of({MAP_SHARED, MAP_PRIVATE}) | MAP_FIXED | one_of({0, MAP_ANONYMOUS}) |
                                one_of({0, MAP_POPULATE})),
                        as_word(file), below(16) * kPage});
        break;
      case 5: g.call("msync", {page(), length(), MS_SYNC}); break;
      case 6: g.call("mincore", {page(), length(), place()}); break;
      case 7: g.call(one_of({"read", "write"}), {fd, place(), length()}); break;
      case 8: g.call(one_of({"readv", "writev"}), {fd, iov, 2}); break;
      case 9: g.call(one_of({"preadv", "pwritev"}), {as_word(file), iov, 2, below(kPlot)}); break;
      case 10: g.call("vmsplice", {as_word(pipe), iov, 2, SPLICE_F_NONBLOCK}); break;
      case 11: g.call("ftruncate", {as_word(file), below(kPlot)}); break;
      case 12: {
        const std::array<std::uint64_t, 3> range{page(), kPage * (1 + below(8)), below(4)};
        (void)g.memory().write(iov, std::as_bytes(std::span(range)));
        g.call("ioctl",
               {as_word(device),
                one_of<std::uint64_t>({_IOC(_IOC_WRITE, 'g', 7, 24), _IO('g', 8), _IOW('g', 9, std::uint64_t)}), iov});
        break;
      }
      default:
        if (auto word = g.memory().word(mm::align_down(place(), 4), one_of({mm::Access::Read, mm::Access::Write})))
          (void)word->load();
    }
  }

  static constexpr std::uint64_t kBytes = kBlock + 5 * kPlot;
  std::uint64_t base_ = 0;
  std::mt19937_64 random_;
};

TEST_F(WildReset, NothingThatCallsDoToInheritedMemoryOutlivesAReset) {
  const char* given = std::getenv("SEED");
  const std::uint64_t seed = given ? std::strtoull(given, nullptr, 0) : std::random_device{}();
  std::printf("seed %llu (repeat with SEED=%llu)\n", static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(seed));
  random_.seed(seed);
  Scratch scratch;
  const std::vector<Share> shares{{scratch.path.string(), "/w", true}};
  auto physical = std::make_shared<mm::PhysicalSpace>();
  Guest parent(shares, make_fake_shell(physical));
  lay_out(parent);
  auto snapshot = parent.memory().freeze();
  ASSERT_TRUE(snapshot);
  const std::uint64_t before = contents(parent.memory());

  auto shell = make_fake_shell(physical);
  ASSERT_TRUE(shell->adopt(*snapshot));
  for (int round = 0; round < 30; ++round) {
    ASSERT_EQ(contents(shell->memory()), before) << "round " << round;
    {
      Guest child(shares, shell);
      const std::int64_t file = child.open("/w/file", O_RDWR), device = child.open(kGupTestPath, O_RDWR);
      ASSERT_GE(file, 0);
      ASSERT_GE(device, 0);
      const std::uint64_t ends = child.room(8);
      ASSERT_EQ(child.call("pipe2", {ends, O_NONBLOCK}), 0);
      const int pipe = child.get<std::array<int, 2>>(ends)[1];
      for (int i = 0; i < 100; ++i) call_wildly(child, file, device, pipe);
      child.process->files.close_all();
      child.process->files.state().devices->let_go();
    }
    ASSERT_EQ(shell->memory().audit(), "") << "round " << round;
    ASSERT_TRUE(shell->reset()) << "round " << round;
    ASSERT_EQ(shell->memory().audit(), "") << "round " << round;
  }
  EXPECT_EQ(contents(parent.memory()), before);
}

}  // namespace
}  // namespace ramet::vmm
