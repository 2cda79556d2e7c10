// Calls that change names and attributes, on a writable share.
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "tests/vmm/files_guest.hpp"

namespace ramet::vmm {
namespace {

TEST(Change, NamesAreMadeMovedAndRemoved) {
  Work w;
  Guest& g = w.g;
  EXPECT_EQ(g.call("mkdir", {g.put("/w/a"), 0755}), 0);
  EXPECT_EQ(g.call("mkdir", {g.put("/w/a"), 0755}), -EEXIST);
  EXPECT_EQ(g.call("mkdir", {g.put("/w/."), 0755}), -EEXIST);
  EXPECT_EQ(g.call("mkdir", {g.put("/"), 0755}), -EEXIST);
  w.s.file("a/f", "text");
  EXPECT_EQ(g.call("rename", {g.put("/w/a/f"), g.put("/w/g")}), 0);
  EXPECT_EQ(g.call("link", {g.put("/w/g"), g.put("/w/a/h")}), 0);
  EXPECT_EQ(g.call("symlink", {g.put("a/h"), g.put("/w/s")}), 0);
  EXPECT_EQ(g.cat("/w/s"), "text");
  EXPECT_EQ(g.call("rmdir", {g.put("/w/a")}), -ENOTEMPTY);
  EXPECT_EQ(g.call("unlink", {g.put("/w/a")}), -EISDIR);
  EXPECT_EQ(g.call("unlink", {g.put("/w/a/h")}), 0);
  EXPECT_EQ(g.call("rmdir", {g.put("/w/a/")}), 0);
  EXPECT_EQ(g.call("rmdir", {g.put("/w/.")}), -EINVAL);
  EXPECT_EQ(g.call("rmdir", {g.put("/w/..")}), -ENOTEMPTY);
  EXPECT_EQ(g.call("rmdir", {g.put("/w/s/")}), -ENOTDIR);
  EXPECT_EQ(g.call("unlink", {g.put("/w/s")}), 0);
  EXPECT_EQ(w.s.text("g"), "text");
}

TEST(Change, MountPointsAndSyntheticFilesStay) {
  Work w;
  Guest& g = w.g;
  w.s.dir("d");
  for (const char* path : {"/w", "/proc", "/dev", "/sys"}) {
    EXPECT_EQ(g.call("rmdir", {g.put(path)}), -EBUSY) << path;
    EXPECT_EQ(g.call("rename", {g.put(path), g.put("/w/x")}), -EXDEV) << path;
  }
  EXPECT_EQ(g.call("rmdir", {g.put("/")}), -EBUSY);
  EXPECT_EQ(g.call("mkdir", {g.put("/new"), 0755}), -EACCES);
  EXPECT_EQ(g.call("mkdir", {g.put("/proc/new"), 0755}), -EACCES);
  EXPECT_EQ(g.call("unlink", {g.put("/proc/meminfo")}), -EPERM);
  EXPECT_EQ(g.call("rename", {g.put("/w/d"), g.put("/d")}), -EXDEV);
}

TEST(Change, RenameFlagsAreThoseOfTheHost) {
  Work w;
  Guest& g = w.g;
  w.s.file("a", "A");
  w.s.file("b", "B");
  auto rename = [&](const char* from, const char* to, std::uint64_t flags) {
    return g.call("renameat2", {as_word(AT_FDCWD), g.put(from), as_word(AT_FDCWD), g.put(to), flags});
  };
  EXPECT_EQ(rename("/w/a", "/w/b", 1), -EEXIST);
  EXPECT_EQ(rename("/w/a", "/w/b", 2), 0);
  EXPECT_EQ(w.s.text("a") + w.s.text("b"), "BA");
  EXPECT_EQ(rename("/w/a", "/w/b", 4), -EINVAL);
  EXPECT_EQ(rename("/w/a", "/w/b", 3), -EINVAL);
  EXPECT_EQ(rename("/w/a", "/w/b", 0), 0);
  EXPECT_EQ(w.s.text("b"), "B");
}

TEST(Change, ModesNeverGainTheRightToBecomeSomebodyElse) {
  Work w;
  Guest& g = w.g;
  w.s.file("f", "");
  w.s.dir("d");
  EXPECT_EQ(g.call("chmod", {g.put("/w/f"), 06755}), 0);
  EXPECT_EQ(g.mode("/w/f"), S_IFREG | 0755);
  EXPECT_EQ(g.call("mknod", {g.put("/w/n"), S_IFREG | 06711, 0}), 0);
  EXPECT_EQ(g.mode("/w/n") & 07000, 0);
  EXPECT_EQ(g.call("chmod", {g.put("/w/d"), 02775}), 0);
  EXPECT_EQ(g.mode("/w/d"), S_IFDIR | 02775);
  std::int64_t fd = g.open("/w/f", O_RDWR);
  EXPECT_EQ(g.call("fchmod", {as_word(fd), 04700}), 0);
  EXPECT_EQ(g.mode("/w/f"), S_IFREG | 0700);
  EXPECT_GE(g.open("/w/created", O_CREAT | O_WRONLY, 04755), 0);
  EXPECT_EQ(g.mode("/w/created"), S_IFREG | 0755);
  for (mode_t type : {S_IFCHR, S_IFBLK}) EXPECT_EQ(g.call("mknod", {g.put("/w/node"), type | 0600, 0x103}), -EPERM);
}

TEST(Change, TimesAreSetByEveryCall) {
  Work w;
  Guest& g = w.g;
  w.s.file("f", "");
  w.s.link("l", "f");
  auto mtime = [&](const char* path, const char* how) {
    std::uint64_t p = g.put(path), out = g.room(sizeof(struct stat));
    EXPECT_EQ(g.call(how, {p, out}), 0);
    return g.get<struct stat>(out).st_mtim.tv_sec;
  };
  std::array<timespec, 2> ts{timespec{100, 5}, timespec{200, 6}};
  std::uint64_t path = g.put("/w/f");
  EXPECT_EQ(g.call("utimensat", {as_word(AT_FDCWD), path, g.put_object(ts), 0}), 0);
  EXPECT_EQ(mtime("/w/f", "stat"), 200);
  path = g.put("/w/l");
  ts[1].tv_sec = 300;
  EXPECT_EQ(g.call("utimensat", {as_word(AT_FDCWD), path, g.put_object(ts), AT_SYMLINK_NOFOLLOW}), 0);
  EXPECT_EQ(mtime("/w/f", "stat"), 200);
  EXPECT_EQ(mtime("/w/l", "lstat"), 300);
  std::array<timeval, 2> tv{timeval{1, 0}, timeval{400, 0}};
  path = g.put("/w/f");
  EXPECT_EQ(g.call("utimes", {path, g.put_object(tv)}), 0);
  EXPECT_EQ(mtime("/w/f", "stat"), 400);
  tv[0].tv_usec = 1'000'000;
  path = g.put("/w/f");
  EXPECT_EQ(g.call("utimes", {path, g.put_object(tv)}), -EINVAL);
  path = g.put("/w/f");
  EXPECT_EQ(g.call("utime", {path, g.put_object(std::array<std::int64_t, 2>{1, 500})}), 0);
  EXPECT_EQ(mtime("/w/f", "stat"), 500);
  std::int64_t fd = g.open("/w/f");
  EXPECT_EQ(g.call("utimensat", {as_word(fd), 0, 0, 0}), 0);
  EXPECT_GT(mtime("/w/f", "stat"), 1'000'000'000);
}

TEST(Change, AttributesThatAFileSystemMayLackAreLacking) {
  Work w;
  EXPECT_EQ(w.g.call("getxattr", {w.g.put("/w"), w.g.put("user.x"), 0, 0}), -EOPNOTSUPP);
  EXPECT_EQ(w.g.call("chroot", {w.g.put("/w")}), -EPERM);
}

TEST(Change, TruncationTakesSizesTheFileCanHave) {
  Work w;
  Guest& g = w.g;
  w.s.file("f", "0123456789");
  EXPECT_EQ(g.call("truncate", {g.put("/w/f"), 4}), 0);
  EXPECT_EQ(w.s.text("f"), "0123");
  EXPECT_EQ(g.call("truncate", {g.put("/w/f"), as_word(-1)}), -EINVAL);
  EXPECT_EQ(g.call("truncate", {g.put("/w"), 0}), -EISDIR);
  std::int64_t fd = g.open("/w/f", O_RDWR);
  EXPECT_EQ(g.call("ftruncate", {as_word(fd), 2}), 0);
  EXPECT_EQ(g.call("fallocate", {as_word(fd), 0, 0, 5}), 0);
  EXPECT_EQ(w.s.text("f"), std::string("01\0\0\0", 5));
  EXPECT_EQ(g.call("fallocate", {as_word(fd), 0, as_word(-1), 5}), -EINVAL);
  EXPECT_EQ(g.call("fallocate", {as_word(fd), 0, 1, INT64_MAX}), -EFBIG);
  EXPECT_EQ(g.call("fallocate", {as_word(fd), 8, 0, 4096}), -EOPNOTSUPP);
  EXPECT_GE(g.open("/w/f", O_WRONLY | O_TRUNC), 0);
  EXPECT_EQ(w.s.text("f"), "");
}

}  // namespace
}  // namespace ramet::vmm
