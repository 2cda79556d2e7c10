// Files mapped into guest memory, and truncated under it.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "tests/vmm/files_guest.hpp"
#include "vmm/linux/files/state.hpp"

namespace ramet::vmm {
namespace {

constexpr std::uint64_t kPage = 4096;

struct Mapped {
  Mapped() { s.file("f", std::string(3 * kPage, 'a')); }
  std::int64_t map(std::int64_t fd, int prot, int flags, std::uint64_t length = 3 * kPage, std::uint64_t offset = 0) {
    return g.call("mmap", {0, length, as_word(prot), as_word(flags), as_word(fd), offset});
  }
  bool readable(std::int64_t at) {
    char c;
    return g.memory().read(as_word(at), std::as_writable_bytes(std::span(&c, 1))).has_value();
  }
  Scratch s;
  Guest g{{{s.path.string(), "/w", true}, {s.path.string(), "/ro", false}}};
};

TEST(Mapping, APrivateMappingReadsTheFileAndKeepsItsStores) {
  Mapped w;
  std::int64_t fd = w.g.open("/w/f");
  std::int64_t at = w.map(fd, PROT_READ | PROT_WRITE, MAP_PRIVATE);
  ASSERT_GT(at, 0);
  EXPECT_EQ(w.g.bytes(as_word(at), 3), "aaa");
  ASSERT_TRUE(w.g.memory().write(as_word(at), std::as_bytes(std::span("xyz", 3))));
  EXPECT_EQ(w.g.bytes(as_word(at), 4), "xyza");
  EXPECT_EQ(w.s.text("f").substr(0, 3), "aaa");
}

TEST(Mapping, ASharedMappingIsTheFile) {
  Mapped w;
  std::int64_t fd = w.g.open("/w/f", O_RDWR);
  const auto banks = w.g.machine.banks;
  std::int64_t at = w.map(fd, PROT_READ | PROT_WRITE, MAP_SHARED, 2 * kPage, kPage);
  ASSERT_GT(at, 0);
  EXPECT_EQ(w.g.machine.banks, banks + 1);
  ASSERT_TRUE(w.g.memory().write(as_word(at), std::as_bytes(std::span("xyz", 3))));
  EXPECT_EQ(w.g.call("msync", {as_word(at), 2 * kPage, MS_SYNC}), 0);
  EXPECT_EQ(w.s.text("f").substr(kPage, 4), "xyza");
  // What others write is seen.
  w.g.call("pwrite64", {as_word(fd), w.g.put("Q"), 1, kPage + 1});
  EXPECT_EQ(w.g.bytes(as_word(at), 3), "xQz");
  EXPECT_EQ(w.g.call("munmap", {as_word(at), 2 * kPage}), 0);
  EXPECT_EQ(w.g.machine.banks, banks);
}

// Faults ask the host for the size only where what they know does not do; what they read tells whether it still holds.
TEST(Mapping, AFileThatTheHostShrinksAndGrowsFaultsAsItIsNow) {
  Mapped w;
  constexpr std::uint64_t kPages = 600;
  w.s.file("f", std::string(kPages * kPage, 'a'));
  const auto host = [&](std::uint64_t pages) { return std::filesystem::resize_file(w.s.path / "f", pages * kPage); };
  const std::int64_t at = w.map(w.g.open("/w/f"), PROT_READ, MAP_PRIVATE, 2 * kPages * kPage);
  ASSERT_GT(at, 0);
  const auto fault = [&](std::uint64_t page) {
    return w.g.memory().fault(as_word(at) + page * kPage, mm::Access::Read);
  };
  ASSERT_TRUE(fault(0));
  host(400);
  EXPECT_EQ(fault(500), mm::fail(mm::Error::BeyondEnd));
  EXPECT_TRUE(fault(399));
  EXPECT_EQ(fault(400), mm::fail(mm::Error::BeyondEnd));
  host(kPages + 5);
  EXPECT_TRUE(fault(kPages + 4));
  EXPECT_EQ(w.g.bytes(as_word(at) + 399 * kPage, 1), "a");
  EXPECT_EQ(w.g.bytes(as_word(at) + (kPages + 4) * kPage, 1), std::string(1, '\0'));
  EXPECT_EQ(fault(kPages + 5), mm::fail(mm::Error::BeyondEnd));
}

// Another thread replaces the descriptor all the time, as dup2(2) does it.
TEST(Mapping, AMappingMayDoWhatTheFileMayThatItIsOf) {
  Mapped w;
  const std::int64_t fd = w.g.open("/w/f", O_RDWR);
  const auto both = w.g.process->files.get(static_cast<int>(fd));
  const auto reader = w.g.process->files.get(static_cast<int>(w.g.open("/ro/f")));
  Descriptors& table = w.g.process->files.state().descriptors;
  std::atomic<bool> stop{false};
  std::thread other([&] {
    for (bool turn = false; !stop.load(std::memory_order_relaxed); turn = !turn) {
      table.set({static_cast<int>(fd), turn ? both : reader});
      std::this_thread::yield();  // else it has the lock nearly always, and calls wait for long where processors are
                                  // emulated
    }
  });
  unsigned wrong = 0, of_both = 0, of_reader = 0;
  while (of_both + of_reader < 4000 || std::min(of_both, of_reader) < 100) {
    const std::int64_t at = w.map(fd, PROT_READ, MAP_SHARED, kPage);
    if (at <= 0) break;
    const auto region = w.g.memory().find_region(as_word(at));
    const bool writable = Files::file_of(*region->backing) == both;
    ++(writable ? of_both : of_reader);
    wrong += mm::has(region->max_prot, mm::Prot::Write) != writable;
    EXPECT_EQ(w.g.call("munmap", {as_word(at), kPage}), 0);
  }
  stop = true;
  other.join();
  EXPECT_GE(std::min(of_both, of_reader), 100u);
  EXPECT_EQ(wrong, 0u) << "of " << of_both + of_reader;
}

TEST(Mapping, TheDescriptorDecidesWhatAMappingMayDo) {
  Mapped w;
  std::int64_t reader = w.g.open("/w/f"), writer = w.g.open("/w/f", O_WRONLY), readonly = w.g.open("/ro/f"),
               both = w.g.open("/w/f", O_RDWR);
  EXPECT_EQ(w.map(reader, PROT_READ | PROT_WRITE, MAP_SHARED), -EACCES);
  EXPECT_EQ(w.map(readonly, PROT_READ | PROT_WRITE, MAP_SHARED), -EACCES);
  EXPECT_EQ(w.map(writer, PROT_READ, MAP_PRIVATE), -EACCES);
  std::int64_t at = w.map(reader, PROT_READ, MAP_SHARED);
  ASSERT_GT(at, 0);
  EXPECT_EQ(w.g.call("mprotect", {as_word(at), kPage, PROT_READ | PROT_WRITE}), -EACCES);
  EXPECT_GT(w.map(readonly, PROT_READ | PROT_WRITE, MAP_PRIVATE), 0);
  EXPECT_EQ(w.map(both, PROT_READ, MAP_SHARED, kPage, 1), -EINVAL);
  EXPECT_EQ(w.map(99, PROT_READ, MAP_PRIVATE), -EBADF);
  EXPECT_EQ(w.map(w.g.open("/w"), PROT_READ, MAP_PRIVATE), -ENODEV);
  EXPECT_EQ(w.map(w.g.open("/dev/null"), PROT_READ, MAP_PRIVATE), -ENODEV);
  EXPECT_EQ(w.map(w.g.open("/w/f", O_PATH), PROT_READ, MAP_PRIVATE), -EBADF);
  EXPECT_LT(w.map(both, PROT_READ, MAP_SHARED, kPage, ~0ull << 13), 0);
}

TEST(Mapping, ZeroesComeFromTheZeroDevice) {
  Mapped w;
  std::int64_t at = w.map(w.g.open("/dev/zero", O_RDWR), PROT_READ | PROT_WRITE, MAP_PRIVATE);
  ASSERT_GT(at, 0);
  EXPECT_EQ(w.g.bytes(as_word(at), 4), std::string(4, '\0'));
}

TEST(Mapping, PagesBeyondATruncatedFileAreGone) {
  for (int flags : {MAP_SHARED, MAP_PRIVATE}) {
    for (int how = 0; how < 3; ++how) {
      Mapped w;
      std::int64_t fd = w.g.open("/w/f", O_RDWR), at = w.map(fd, PROT_READ, flags);
      ASSERT_GT(at, 0);
      for (std::uint64_t page = 0; page < 3; ++page)
        EXPECT_TRUE(w.readable(at + static_cast<std::int64_t>(page * kPage)));
      std::uint64_t left = how == 2 ? 0 : kPage;
      if (how == 0) {
        EXPECT_EQ(w.g.call("ftruncate", {as_word(fd), left}), 0);
      }
      if (how == 1) {
        EXPECT_EQ(w.g.call("truncate", {w.g.put("/w/f"), left}), 0);
      }
      if (how == 2) {
        EXPECT_GE(w.g.open("/w/f", O_WRONLY | O_TRUNC), 0);
      }
      EXPECT_EQ(w.readable(at), left != 0);
      EXPECT_FALSE(w.readable(at + static_cast<std::int64_t>(2 * kPage)));
      // It grows again, with zeroes.
      EXPECT_EQ(w.g.call("ftruncate", {as_word(fd), 3 * kPage}), 0);
      EXPECT_TRUE(w.readable(at + static_cast<std::int64_t>(2 * kPage)));
      EXPECT_EQ(w.g.bytes(as_word(at) + 2 * kPage, 2), std::string(2, '\0'));
    }
  }
}

TEST(Mapping, AFailedTruncationLeavesTheFileMapped) {
  Mapped w;
  std::int64_t reader = w.g.open("/w/f"), at = w.map(reader, PROT_READ, MAP_SHARED);
  EXPECT_EQ(w.g.call("ftruncate", {as_word(reader), 0}), -EINVAL);
  EXPECT_TRUE(w.readable(at + static_cast<std::int64_t>(2 * kPage)));
}

TEST(Mapping, MapsAreListedAsLinuxListsThem) {
  Mapped w;
  std::int64_t fd = w.g.open("/w/f"), at = w.map(fd, PROT_READ | PROT_EXEC, MAP_PRIVATE, 2 * kPage, kPage);
  struct stat st;
  ASSERT_EQ(::stat((w.s.path / "f").c_str(), &st), 0);
  std::string maps = w.g.cat("/proc/self/maps");
  char line[256];
  int n = std::snprintf(line, sizeof line, "%08lx-%08lx r-xp 00001000 %02x:%02x %lu ", as_word(at),
                        as_word(at) + 2 * kPage, static_cast<unsigned>(st.st_dev >> 8 & 0xfff),
                        static_cast<unsigned>(st.st_dev & 0xff), st.st_ino);
  std::string expected(line, static_cast<std::size_t>(n));
  expected.resize(73, ' ');
  EXPECT_NE(maps.find(expected + "/w/f\n"), std::string::npos) << maps;
  w.g.call("unlink", {w.g.put("/w/f")});
  EXPECT_NE(w.g.cat("/proc/self/maps").find("/w/f (deleted)\n"), std::string::npos);
  // Anonymous memory ends after its inode number and a space.
  EXPECT_NE(maps.find(" rw-p 00000000 00:00 0 \n"), std::string::npos) << maps;
}

}  // namespace
}  // namespace ramet::vmm
