// Listings that merge what the host has with what is mounted there, and the working directory.
#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "tests/vmm/files_guest.hpp"

namespace ramet::vmm {
namespace {

using Names = std::set<std::string>;

TEST(Directory, TheRootShowsHostMountsAndSyntheticNamesOnce) {
  Scratch s;
  s.dir("root/usr");
  s.dir("root/proc/hidden");
  s.dir("root/data");
  s.file("root/file", "");
  s.dir("other");
  Guest g({{(s.path / "root").string(), "/", false},
           {(s.path / "other").string(), "/data", false},
           {(s.path / "other").string(), "/far/away", false}});
  std::int64_t fd = g.open("/", O_RDONLY | O_DIRECTORY);
  auto names = g.names(fd);
  EXPECT_EQ(as_set(names), (Names{".", "..", "usr", "data", "file", "proc", "sys", "dev", "far"}));
  EXPECT_EQ(names.size(), 9u) << "a name was listed twice";
  EXPECT_EQ(as_set(g.names(g.open("/far"))), (Names{".", "..", "away"}));
  EXPECT_TRUE(as_set(g.names(g.open("/proc"))).contains("meminfo"));
  EXPECT_FALSE(as_set(g.names(g.open("/proc"))).contains("hidden"));
}

TEST(Directory, ListingsGoOnWhereTheyStoppedAndRewind) {
  Scratch s;
  Names expected{".", "..", "proc", "sys", "dev"};
  for (int i = 0; i < 300; ++i) {
    std::string name = "file-" + std::to_string(i);
    s.file(name, "");
    expected.insert(name);
  }
  Guest g({{s.path.string(), "/", true}});
  std::int64_t fd = g.open("/", O_RDONLY | O_DIRECTORY);
  for (std::size_t room : {64u, 128u, 4096u, 65536u}) {
    auto names = g.names(fd, room);
    EXPECT_EQ(as_set(names), expected) << room;
    EXPECT_EQ(names.size(), expected.size()) << room;
    EXPECT_TRUE(g.names(fd, room).empty());
    EXPECT_EQ(g.call("lseek", {as_word(fd), 0, SEEK_SET}), 0);
  }
  EXPECT_EQ(g.names(fd, 16), std::vector<std::string>{error(EINVAL)});
  // A file that is made after the listing is there after a rewind.
  s.file("late", "");
  EXPECT_EQ(g.call("lseek", {as_word(fd), 0, SEEK_SET}), 0);
  EXPECT_TRUE(as_set(g.names(fd)).contains("late"));
}

TEST(Directory, OffsetsOfEntriesCanBeSoughtAgain) {
  Scratch s;
  for (int i = 0; i < 20; ++i) s.file("f" + std::to_string(i), "");
  Guest g({{s.path.string(), "/", true}});
  std::int64_t fd = g.open("/", O_RDONLY | O_DIRECTORY);
  std::vector<std::pair<std::string, std::int64_t>> entries;
  for (std::int64_t n; (n = g.call("getdents64", {as_word(fd), g.buffer, 256})) > 0;) {
    std::string data = g.bytes(g.buffer, static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < data.size();) {
      std::int64_t off;
      std::uint16_t length;
      std::memcpy(&off, data.data() + i + 8, 8);
      std::memcpy(&length, data.data() + i + 16, 2);
      entries.emplace_back(data.c_str() + i + 19, off);
      i += length;
    }
  }
  ASSERT_EQ(entries.size(), 25u);
  // What d_off says of an entry is where the next one is found.
  for (std::size_t i = 0; i + 1 < entries.size(); ++i) {
    ASSERT_EQ(g.call("lseek", {as_word(fd), as_word(entries[i].second), SEEK_SET}), entries[i].second);
    auto rest = g.names(fd);
    ASSERT_FALSE(rest.empty());
    EXPECT_EQ(rest.front(), entries[i + 1].first);
    EXPECT_EQ(rest.size(), entries.size() - i - 1);
  }
}

TEST(Directory, ClosingDescriptorsWhileTheyAreListedSkipsNone) {
  Guest g({});
  for (int i = 0; i < 40; ++i) g.open("/dev/null");
  std::int64_t dir = g.open("/proc/self/fd");
  Names seen;
  for (std::int64_t n; (n = g.call("getdents64", {as_word(dir), g.buffer, 64})) > 0;) {
    std::string data = g.bytes(g.buffer, static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < data.size();) {
      std::uint16_t length;
      std::memcpy(&length, data.data() + i + 16, 2);
      std::string name = data.c_str() + i + 19;
      seen.insert(name);
      if (name[0] != '.' && name != std::to_string(dir)) g.call("close", {static_cast<std::uint64_t>(std::stoi(name))});
      i += length;
    }
  }
  EXPECT_EQ(seen.size(), 43u);  // ".", "..", 40 and the directory's own
  EXPECT_EQ(g.open("/dev/null"), 0);
}

TEST(Directory, TheOldLayoutHasTheTypeAtItsEnd) {
  Scratch s;
  s.dir("only");
  Guest g({{s.path.string(), "/w", true}});
  std::int64_t fd = g.open("/w"), n = g.call("getdents", {as_word(fd), g.buffer, 4096});
  std::string data = g.bytes(g.buffer, static_cast<std::size_t>(n));
  Names names;
  for (std::size_t i = 0; i < data.size();) {
    std::uint16_t length;
    std::memcpy(&length, data.data() + i + 16, 2);
    names.insert(data.c_str() + i + 18);
    EXPECT_EQ(data[i + length - 1], DT_DIR);
    i += length;
  }
  EXPECT_EQ(names, (Names{".", "..", "only"}));
}

TEST(Directory, TheWorkingDirectoryFollowsChdir) {
  Scratch s;
  s.dir("a/b");
  s.file("a/b/f", "text");
  Guest g({{s.path.string(), "/w", true}});
  EXPECT_EQ(g.cwd(), "/");
  EXPECT_EQ(g.call("chdir", {g.put("w/a")}), 0);
  EXPECT_EQ(g.cwd(), "/w/a");
  EXPECT_EQ(g.cat("b/f"), "text");
  EXPECT_EQ(g.call("chdir", {g.put("b/f")}), -ENOTDIR);
  std::int64_t b = g.open("b", O_RDONLY | O_DIRECTORY);
  EXPECT_EQ(g.call("fchdir", {as_word(b)}), 0);
  EXPECT_EQ(g.cwd(), "/w/a/b");
  EXPECT_EQ(g.call("chdir", {g.put("../../..")}), 0);
  EXPECT_EQ(g.cwd(), "/");
  EXPECT_EQ(g.call("chdir", {g.put("/proc/self")}), 0);
  EXPECT_EQ(g.cat("comm"), "program\n");
  EXPECT_EQ(g.call("chdir", {g.put("..")}), 0);
  EXPECT_EQ(g.cwd(), "/proc");
  EXPECT_EQ(g.call("getcwd", {g.buffer, 3}), -ERANGE);
  EXPECT_EQ(g.call("getcwd", {0x10, 100}), -EFAULT);
  EXPECT_EQ(g.link("/proc/self/cwd"), "/proc");
}

TEST(Directory, ARemovedWorkingDirectoryIsGone) {
  Scratch s;
  s.dir("d");
  Guest g({{s.path.string(), "/w", true}});
  ASSERT_EQ(g.call("chdir", {g.put("/w/d")}), 0);
  ASSERT_EQ(g.call("rmdir", {g.put("/w/d")}), 0);
  EXPECT_EQ(g.cwd(), error(ENOENT));
  EXPECT_EQ(g.open("new", O_CREAT | O_WRONLY), -ENOENT);
  EXPECT_TRUE(S_ISDIR(g.mode(".")));
}

}  // namespace
}  // namespace ramet::vmm
