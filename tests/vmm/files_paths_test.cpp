// No path escapes what was shared.
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "tests/vmm/files_guest.hpp"

namespace ramet::vmm {
namespace {

// host:   outside/secret          shared/{file, sub/inner, links}        other/{theirs}
struct Tree {
  Tree() {
    top.dir("outside");
    top.file("outside/secret", "secret");
    top.dir("shared/sub");
    top.file("shared/file", "file");
    top.file("shared/sub/inner", "inner");
    top.dir("other/deep");
    top.file("other/theirs", "theirs");
  }
  Share share(const std::string& name, const std::string& guest, bool writable = false) const {
    return {(top.path / name).string(), guest, writable};
  }
  Scratch top;
};

TEST(Paths, AFileBelowAShareIsReadByItsGuestPath) {
  Tree t;
  Guest g({t.share("shared", "/data")});
  EXPECT_EQ(g.cat("/data/file"), "file");
  EXPECT_EQ(g.cat("/data//./sub/../sub///inner"), "inner");
  EXPECT_EQ(g.cat("/file"), error(ENOENT));
  EXPECT_EQ(g.cat((t.top.path / "shared/file").string()), error(ENOENT));
}

TEST(Paths, DotDotStopsAtTheGuestsRoot) {
  Tree t;
  Guest g({t.share("shared", "/")});
  EXPECT_EQ(g.cat("/../../../file"), "file");
  EXPECT_EQ(g.cat("/../outside/secret"), error(ENOENT));
  EXPECT_EQ(g.cat("/sub/../../outside/secret"), error(ENOENT));
  EXPECT_EQ(g.cat("sub/../../../../file"), "file");
}

TEST(Paths, DotDotOutOfAShareLeadsToItsGuestParent) {
  Tree t;
  Guest g({t.share("shared", "/a/b"), t.share("other", "/a/c")});
  EXPECT_EQ(g.cat("/a/b/../c/theirs"), "theirs");
  EXPECT_EQ(g.cat("/a/b/../outside/secret"), error(ENOENT));
  EXPECT_EQ(g.cat("/a/b/../../a/b/file"), "file");
}

TEST(Paths, AbsoluteLinksStartAtTheGuestsRoot) {
  Tree t;
  t.top.link("shared/absolute", (t.top.path / "outside/secret").string());
  t.top.link("shared/inside", "/data/file");
  Guest g({t.share("shared", "/data")});
  EXPECT_EQ(g.cat("/data/absolute"), error(ENOENT));
  EXPECT_EQ(g.cat("/data/inside"), "file");
  EXPECT_EQ(g.link("/data/inside"), "/data/file");
}

TEST(Paths, RelativeLinksCannotClimbOut) {
  Tree t;
  t.top.link("shared/up", "../outside/secret");
  t.top.link("shared/sub/upup", "../../outside");
  t.top.link("shared/fine", "sub/../file");
  Guest g({t.share("shared", "/data"), t.share("other", "/outside")});
  EXPECT_EQ(g.cat("/data/up"), error(ENOENT));  // the guest's /outside, where there is no such file
  EXPECT_EQ(g.cat("/data/sub/upup/theirs"), "theirs");
  EXPECT_EQ(g.cat("/data/fine"), "file");
}

TEST(Paths, ChainsOfLinksEndAfterForty) {
  Tree t;
  t.top.link("shared/l0", "file");
  for (int i = 1; i <= 41; ++i) t.top.link("shared/l" + std::to_string(i), "l" + std::to_string(i - 1));
  t.top.link("shared/loop", "loop");
  Guest g({t.share("shared", "/")});
  EXPECT_EQ(g.cat("/l39"), "file");  // forty links
  EXPECT_EQ(g.cat("/l40"), error(ELOOP));
  EXPECT_EQ(g.cat("/loop"), error(ELOOP));
  EXPECT_EQ(g.cat("/loop/x"), error(ELOOP));
}

TEST(Paths, LinksThatTheGuestMakesAreFollowedInItsOwnTree) {
  Tree t;
  Guest g({t.share("shared", "/data", true)});
  std::string outside = (t.top.path / "outside").string();
  ASSERT_EQ(g.call("symlink", {g.put(outside), g.put("/data/escape")}), 0);
  EXPECT_EQ(g.cat("/data/escape/secret"), error(ENOENT));
  ASSERT_EQ(g.call("symlink", {g.put("../../../../../../../../../" + outside), g.put("/data/climb")}), 0);
  EXPECT_EQ(g.cat("/data/climb/secret"), error(ENOENT));
  // Creation through a dangling link stays inside as well.
  ASSERT_EQ(g.call("symlink", {g.put(outside + "/made"), g.put("/data/dangling")}), 0);
  EXPECT_EQ(g.open("/data/dangling", O_CREAT | O_WRONLY), -ENOENT);
  EXPECT_FALSE(fs::exists(outside + "/made"));
}

TEST(Paths, AMountInsideAMountHidesWhatIsBelow) {
  Tree t;
  Guest g({t.share("shared", "/"), t.share("other", "/sub")});
  EXPECT_EQ(g.cat("/sub/theirs"), "theirs");
  EXPECT_EQ(g.cat("/sub/inner"), error(ENOENT));
  EXPECT_EQ(g.cat("/sub/../file"), "file");
}

TEST(Paths, AMountMayLieWhereTheHostHasNothing) {
  Tree t;
  Guest g({t.share("shared", "/"), t.share("other", "/no/such/place")});
  EXPECT_EQ(g.cat("/no/such/place/theirs"), "theirs");
  EXPECT_EQ(g.cat("/no/such/place/../../../file"), "file");
  EXPECT_TRUE(S_ISDIR(g.mode("/no/such")));
  EXPECT_EQ(g.mode("/no/thing"), -ENOENT);
}

TEST(Paths, AMountPointIsFoundThroughTheLinksThatLeadThere) {
  Tree t;
  t.top.link("shared/alias", "sub");
  Guest g({t.share("shared", "/"), t.share("other", "/alias/x")});
  EXPECT_EQ(g.cat("/alias/x/theirs"), "theirs");
  EXPECT_EQ(g.cat("/sub/x/theirs"), "theirs");
}

TEST(Paths, ADirectoryThatIsRenamedUnderneathKeepsTheGuestInside) {
  Tree t;
  Guest g({t.share("shared", "/data", true)});
  ASSERT_EQ(g.call("chdir", {g.put("/data/sub")}), 0);
  // The host moves it somewhere else within the share: the working directory follows.
  fs::create_directories(t.top.path / "shared/new/place");
  fs::rename(t.top.path / "shared/sub", t.top.path / "shared/new/place/sub");
  EXPECT_EQ(g.cwd(), "/data/new/place/sub");
  EXPECT_EQ(g.cat("inner"), "inner");
  EXPECT_EQ(g.cat("../../../file"), "file");
  // And out of the share: nothing above it can be reached any more.
  fs::rename(t.top.path / "shared/new/place/sub", t.top.path / "outside/sub");
  EXPECT_EQ(g.cat("../secret"), error(ENOENT));
  EXPECT_EQ(g.cwd(), error(ENOENT));
  EXPECT_EQ(g.cat("../../data/file"), error(ENOENT));
}

TEST(Paths, RenamesWhileThePathIsWalkedNeverLeadOut) {
  Tree t;
  t.top.dir("shared/a/b/c");
  t.top.file("shared/secret", "inside");
  Guest g({t.share("shared", "/", true)});
  std::atomic<bool> stop{false};
  std::thread host([&] {
    // c moves between the depths: a walk that counted ".." against the host's tree would climb past the top.
    while (!stop) {
      std::error_code ignored;
      fs::rename(t.top.path / "shared/a/b/c", t.top.path / "shared/c", ignored);
      fs::rename(t.top.path / "shared/c", t.top.path / "shared/a/b/c", ignored);
    }
  });
  unsigned found = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = g.cat("/a/b/c/../../../secret");
    EXPECT_TRUE(text == "inside" || text == error(ENOENT)) << text;
    EXPECT_NE(g.cat("/a/b/c/../../../../outside/secret"), "secret");
    found += text == "inside";
  }
  stop = true;
  host.join();
  EXPECT_GT(found, 0u);
}

TEST(Paths, ALinkSwappedForADirectoryNeverLeadsOut) {
  Tree t;
  t.top.dir("shared/spot");
  t.top.file("shared/spot/secret", "decoy");
  fs::create_directory_symlink(t.top.path / "outside", t.top.path / "shared/bad");
  Guest g({t.share("shared", "/data")});
  std::atomic<bool> stop{false};
  std::thread host([&] {
    auto a = t.top.path / "shared/spot", b = t.top.path / "shared/bad";
    while (!stop) ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), 2 /* RENAME_EXCHANGE */);
  });
  for (int i = 0; i < 5000; ++i) EXPECT_NE(g.cat("/data/spot/secret"), "secret");
  stop = true;
  host.join();
}

TEST(Paths, ProcfsOfTheHostIsRefusedEvenBelowRoot) {
  // The guest's /proc is its own; another mount of procfs is found where the host has one. A share of
  // procfs itself is refused at once.
  EXPECT_FALSE(Files::create({{"/proc", "/host", false}}));
  EXPECT_FALSE(Files::create({{"/sys", "/host", false}}));
  EXPECT_FALSE(Files::create({{"/proc/self", "/host", false}}));
  Guest g({{"/", "/", false}});
  EXPECT_EQ(g.cat("/proc/2/maps"), error(ENOENT));
  EXPECT_EQ(g.cat("/proc/1/cmdline"), g.cat("/proc/self/cmdline"));
  EXPECT_EQ(g.cat("/proc/kallsyms"), error(ENOENT));
  EXPECT_EQ(g.cat("/sys/kernel/notes"), error(ENOENT));
  EXPECT_EQ(g.open("/dev/kvm", O_RDWR), -ENOENT);
  EXPECT_EQ(g.open("/dev/mem", O_RDWR), -ENOENT);
}

TEST(Paths, ASecondMountOfProcfsIsRefusedToo) {
  Tree t;
  t.top.dir("shared/p");
  if (::mount("proc", (t.top.path / "shared/p").c_str(), "proc", MS_RDONLY, nullptr) != 0)
    GTEST_SKIP() << "needs the right to mount";
  {
    Guest g({t.share("shared", "/", true)});
    EXPECT_EQ(g.cat("/p/self/maps"), error(EACCES));
    EXPECT_EQ(g.cat("/p/self/environ"), error(EACCES));
    EXPECT_EQ(g.cat("/p/1/cmdline"), error(EACCES));
    EXPECT_EQ(g.cat("/p/self/root/etc/passwd"), error(EACCES));
    EXPECT_EQ(g.mode("/p/self/exe"), -EACCES);
    EXPECT_EQ(g.link("/p/self/cwd"), error(EACCES));
    EXPECT_EQ(g.open("/p", O_RDONLY | O_DIRECTORY), -EACCES);
    EXPECT_EQ(g.open("/p/sys/kernel/core_pattern", O_WRONLY), -EACCES);
  }
  ::umount2((t.top.path / "shared/p").c_str(), MNT_DETACH);
}

TEST(Paths, DevicesBelowAShareAreRefusedExceptTheHarmlessOnes) {
  Tree t;
  auto node = [&](const char* name, mode_t type, unsigned major, unsigned minor) {
    return ::mknod((t.top.path / "shared" / name).c_str(), type | 0666, makedev(major, minor)) == 0;
  };
  if (!node("null", S_IFCHR, 1, 3) || !node("mem", S_IFCHR, 1, 1) || !node("disk", S_IFBLK, 254, 0) ||
      !node("kvm", S_IFCHR, 10, 232))
    GTEST_SKIP() << "needs the right to make device nodes";
  Guest g({t.share("shared", "/data")});
  EXPECT_EQ(g.open("/data/mem"), -EACCES);
  EXPECT_EQ(g.open("/data/disk"), -EACCES);
  EXPECT_EQ(g.open("/data/kvm", O_RDWR), -EACCES);
  // As a path only it can be looked at, and not be opened through that either.
  std::int64_t fd = g.open("/data/mem", O_PATH);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(g.read_all(fd), error(EBADF));
  EXPECT_EQ(g.open("/proc/self/fd/" + std::to_string(fd)), -EACCES);
  EXPECT_GE(g.open("/data/null", O_RDWR), 0);
}

TEST(Paths, SocketsOfTheHostCannotBeOpened) {
  Tree t;
  ASSERT_EQ(::mknod((t.top.path / "shared/sock").c_str(), S_IFSOCK | 0666, 0), 0);
  Guest g({t.share("shared", "/data", true)});
  EXPECT_EQ(g.open("/data/sock", O_RDWR), -ENXIO);
}

TEST(Paths, SlashesAtTheEndAskForADirectory) {
  Tree t;
  t.top.link("shared/todir", "sub");
  t.top.link("shared/tofile", "file");
  Guest g({t.share("shared", "/data", true)});
  EXPECT_EQ(g.cat("/data/file/"), error(ENOTDIR));
  EXPECT_EQ(g.cat("/data/file/."), error(ENOTDIR));
  EXPECT_EQ(g.cat("/data/file/.."), error(ENOTDIR));
  EXPECT_EQ(g.mode("/data/tofile/"), -ENOTDIR);
  EXPECT_TRUE(S_ISDIR(g.mode("/data/todir/", "lstat")));
  EXPECT_TRUE(S_ISLNK(g.mode("/data/todir", "lstat")));
  EXPECT_EQ(g.open("/data/new/", O_CREAT | O_WRONLY), -EISDIR);
  EXPECT_EQ(g.call("mkdir", {g.put("/data/newdir/"), 0755}), 0);
}

TEST(Paths, WrongPathsHaveLinuxsErrors) {
  Tree t;
  Guest g({t.share("shared", "/data")});
  EXPECT_EQ(g.cat(""), error(ENOENT));
  EXPECT_EQ(g.cat("/data/" + std::string(256, 'n')), error(ENAMETOOLONG));
  std::string deep;
  while (deep.size() < 5000) deep += "/d";
  EXPECT_EQ(g.cat(deep), error(ENAMETOOLONG));
  EXPECT_EQ(g.call("open", {0x10, O_RDONLY, 0}), -EFAULT);
  EXPECT_EQ(g.call("openat", {77, g.put("x"), O_RDONLY, 0}), -EBADF);
  std::int64_t file = g.open("/data/file");
  EXPECT_EQ(g.call("openat", {as_word(file), g.put("x"), O_RDONLY, 0}), -ENOTDIR);
  // An absolute path does not look at the descriptor.
  EXPECT_GE(g.call("openat", {77, g.put("/data/file"), O_RDONLY, 0}), 0);
}

TEST(Paths, SharesThatCannotBeAreRefusedByName) {
  auto missing = Files::create({{"/no/such/directory", "/x", false}});
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().message.find("--dir /no/such/directory"), std::string::npos);
  Scratch s;
  s.file("plain", "x");
  EXPECT_FALSE(Files::create({{(s.path / "plain").string(), "/x", false}}));
  EXPECT_FALSE(Files::create({{s.path.string(), "/proc", false}}));
  EXPECT_FALSE(Files::create({{s.path.string(), "/x", false}, {s.path.string(), "/x/", false}}));
  auto files = Files::create({{s.path.string(), "/x", false}});
  ASSERT_TRUE(files);
  EXPECT_TRUE(files->in_share("/x/y"));
  EXPECT_FALSE(files->in_share("/xy"));
  EXPECT_FALSE(files->in_share("/proc/self/maps"));
}

}  // namespace
}  // namespace ramet::vmm
