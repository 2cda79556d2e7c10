// open(2): what its flags mean, what a read-only share refuses, what /dev and descriptors by path give.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "tests/vmm/files_guest.hpp"

namespace ramet::vmm {
namespace {

struct Pair {
  Pair() {
    for (const char* d : {"rw", "ro"}) {
      s.dir(std::string(d) + "/dir");
      s.file(std::string(d) + "/file", "text");
      s.link(std::string(d) + "/link", "file");
      s.link(std::string(d) + "/dangling", "absent");
      s.link(std::string(d) + "/todir", "dir");
    }
    guest = std::make_unique<Guest>(
        std::vector<Share>{{(s.path / "rw").string(), "/rw", true}, {(s.path / "ro").string(), "/ro", false}});
  }
  Scratch s;
  std::unique_ptr<Guest> guest;
};

// The same call on the guest's path and on the host's must end the same way.
struct OpenCase {
  const char* name;
  int flags;
};
constexpr OpenCase kOpenCases[] = {
    {"file", O_RDONLY},
    {"file", O_WRONLY},
    {"file", O_RDWR},
    {"file", O_RDONLY | O_DIRECTORY},
    {"file", O_RDONLY | O_NOFOLLOW},
    {"file", O_CREAT | O_RDWR},
    {"file", O_CREAT | O_EXCL | O_RDWR},
    {"file", O_PATH},
    {"file", O_PATH | O_DIRECTORY},
    {"link", O_RDONLY},
    {"link", O_RDONLY | O_NOFOLLOW},
    {"link", O_PATH | O_NOFOLLOW},
    {"link", O_CREAT | O_EXCL | O_WRONLY},
    {"link", O_CREAT | O_NOFOLLOW | O_WRONLY},
    {"dir", O_RDONLY},
    {"dir", O_RDONLY | O_DIRECTORY},
    {"dir", O_WRONLY},
    {"dir", O_RDWR},
    {"dir", O_CREAT | O_RDONLY},
    {"dir", O_RDONLY | O_TRUNC},
    {"dir", O_PATH | O_DIRECTORY},
    {"todir", O_RDONLY | O_DIRECTORY},
    {"todir", O_RDONLY | O_DIRECTORY | O_NOFOLLOW},
    {"todir", O_PATH | O_DIRECTORY | O_NOFOLLOW},
    {"absent", O_RDONLY},
    {"absent", O_PATH},
    {"dangling", O_RDONLY},
    {"dangling", O_PATH | O_NOFOLLOW},
    {"dangling", O_CREAT | O_EXCL | O_WRONLY},
    {"dangling", O_CREAT | O_NOFOLLOW | O_WRONLY},
    {"dir", O_TMPFILE | O_RDWR},
    {"dir", O_TMPFILE | O_RDONLY},
    {"file", O_TMPFILE | O_RDWR},
    {"absent/x", O_CREAT | O_WRONLY},
    {"file/x", O_CREAT | O_WRONLY},
    {"file/", O_CREAT | O_WRONLY},
    {"absent/", O_CREAT | O_WRONLY},
    {"dir/.", O_CREAT | O_WRONLY},
    {"dir/..", O_RDONLY},
    {"link/x", O_RDONLY},
};

TEST(Open, FlagsMeanWhatTheyMeanOnTheHost) {
  Pair p;
  Guest& g = *p.guest;
  for (const OpenCase& c : kOpenCases) {
    std::string host = (p.s.path / "rw").string() + "/" + c.name;
    int native = ::open(host.c_str(), c.flags, 0600);
    std::int64_t expected = native < 0 ? -errno : 0;
    if (native >= 0) ::close(native);
    std::int64_t got = g.open(std::string("/rw/") + c.name, c.flags, 0600);
    if (got >= 0) {
      g.call("close", {as_word(got)});
      got = 0;
    }
    EXPECT_EQ(got, expected) << c.name << " flags " << std::oct << c.flags;
  }
}

TEST(Open, ADanglingLinkCreatesItsTarget) {
  Pair p;
  std::int64_t fd = p.guest->open("/rw/dangling", O_CREAT | O_WRONLY);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(p.guest->write(fd, "made"), 4);
  EXPECT_EQ(p.s.text("rw/absent"), "made");
}

TEST(Open, CreationTakesTheGuestsUmaskNotTheHosts) {
  Pair p;
  mode_t before = ::umask(022);
  {
    Guest g({{(p.s.path / "rw").string(), "/rw", true}});
    EXPECT_EQ(g.call("umask", {0}), 022);
    ASSERT_GE(g.open("/rw/open-to-all", O_CREAT | O_WRONLY, 0666), 0);
    ASSERT_EQ(g.call("mkdir", {g.put("/rw/dir-to-all"), 0777}), 0);
    EXPECT_EQ(g.call("umask", {077}), 0);
    ASSERT_GE(g.open("/rw/private", O_CREAT | O_WRONLY, 0666), 0);
    EXPECT_EQ(g.mode("/rw/open-to-all"), S_IFREG | 0666);
    EXPECT_EQ(g.mode("/rw/dir-to-all"), S_IFDIR | 0777);
    EXPECT_EQ(g.mode("/rw/private"), S_IFREG | 0600);
  }
  ::umask(before);
}

TEST(Open, AReadOnlyShareRefusesEveryChange) {
  Pair p;
  Guest& g = *p.guest;
  auto at = [&](const char* path) { return g.put(path); };
  for (int flags : {O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_APPEND})
    EXPECT_EQ(g.open("/ro/file", flags), -EROFS);
  EXPECT_EQ(g.open("/ro/new", O_CREAT | O_WRONLY), -EROFS);
  EXPECT_EQ(g.open("/ro/new", O_CREAT | O_RDONLY), -EROFS);
  EXPECT_GE(g.open("/ro/file", O_CREAT | O_RDONLY), 0);  // it exists: nothing is created
  EXPECT_EQ(g.open("/ro/dir", O_TMPFILE | O_RDWR), -EROFS);
  EXPECT_EQ(g.open("/ro/dangling", O_CREAT | O_WRONLY), -EROFS);
  EXPECT_EQ(g.call("mkdir", {at("/ro/new"), 0755}), -EROFS);
  EXPECT_EQ(g.call("mkdir", {at("/ro/dir"), 0755}), -EEXIST);
  EXPECT_EQ(g.call("rmdir", {at("/ro/dir")}), -EROFS);
  EXPECT_EQ(g.call("unlink", {at("/ro/file")}), -EROFS);
  EXPECT_EQ(g.call("rename", {at("/ro/file"), at("/ro/moved")}), -EROFS);
  EXPECT_EQ(g.call("link", {at("/ro/file"), at("/ro/second")}), -EROFS);
  EXPECT_EQ(g.call("symlink", {at("x"), at("/ro/symbolic")}), -EROFS);
  EXPECT_EQ(g.call("mknod", {at("/ro/fifo"), S_IFIFO | 0600, 0}), -EROFS);
  EXPECT_EQ(g.call("chmod", {at("/ro/file"), 0600}), -EROFS);
  EXPECT_EQ(g.call("chown", {at("/ro/file"), 0, 0}), -EROFS);
  EXPECT_EQ(g.call("utimensat", {as_word(AT_FDCWD), at("/ro/file"), 0, 0}), -EROFS);
  EXPECT_EQ(g.call("truncate", {at("/ro/file"), 0}), -EROFS);
  EXPECT_EQ(g.call("access", {at("/ro/file"), W_OK}), -EROFS);
  EXPECT_EQ(g.call("access", {at("/ro/file"), R_OK}), 0);
  // Through a descriptor that is open for reading, and by its path in /proc.
  std::int64_t fd = g.open("/ro/file");
  ASSERT_GE(fd, 0);
  std::string by_path = "/proc/self/fd/" + std::to_string(fd);
  EXPECT_EQ(g.call("fchmod", {as_word(fd), 0600}), -EROFS);
  EXPECT_EQ(g.call("fchown", {as_word(fd), 0, 0}), -EROFS);
  EXPECT_EQ(g.call("utimensat", {as_word(fd), 0, 0, 0}), -EROFS);
  EXPECT_EQ(g.call("ftruncate", {as_word(fd), 0}), -EINVAL);  // the host's answer for a reader
  EXPECT_EQ(g.call("fallocate", {as_word(fd), 0, 0, 10}), -EBADF);
  EXPECT_EQ(g.open(by_path, O_RDWR), -EROFS);
  EXPECT_EQ(g.open(by_path, O_RDONLY | O_TRUNC), -EROFS);
  EXPECT_EQ(g.call("truncate", {g.put(by_path), 0}), -EROFS);
  EXPECT_EQ(g.call("chmod", {g.put(by_path), 0600}), -EROFS);
  EXPECT_EQ(g.call("linkat", {as_word(fd), g.put(""), as_word(AT_FDCWD), g.put("/rw/stolen"), AT_EMPTY_PATH}), -EXDEV);
  EXPECT_EQ(g.call("link", {at("/ro/file"), at("/rw/stolen")}), -EXDEV);
  EXPECT_EQ(g.call("rename", {at("/ro/file"), at("/rw/stolen")}), -EXDEV);
  EXPECT_EQ(g.write(fd, "x"), -EBADF);
  EXPECT_EQ(p.s.text("ro/file"), "text");
  EXPECT_EQ(std::distance(fs::directory_iterator(p.s.path / "ro"), fs::directory_iterator()), 5);
}

TEST(Open, AShareOverAnotherDecidesForWhatIsBelowIt) {
  Scratch s;
  s.dir("top/inner");
  s.file("top/inner/file", "text");
  Guest g({{(s.path / "top").string(), "/", true}, {(s.path / "top/inner").string(), "/inner", false}});
  EXPECT_EQ(g.open("/inner/file", O_RDWR), -EROFS);
  // What holds the read-only share in place cannot be moved out of its way.
  EXPECT_EQ(g.call("rename", {g.put("/inner"), g.put("/other")}), -EBUSY);
  EXPECT_EQ(g.call("rmdir", {g.put("/inner")}), -EBUSY);
  ASSERT_EQ(g.call("mkdir", {g.put("/more"), 0755}), 0);
  EXPECT_EQ(g.call("renameat2", {as_word(AT_FDCWD), g.put("/more"), as_word(AT_FDCWD), g.put("/inner"), 2}), -EBUSY);
}

TEST(Open, OfAnUnlinkedFileByDescriptorStillWorks) {
  Pair p;
  Guest& g = *p.guest;
  std::int64_t fd = g.open("/rw/dir", O_TMPFILE | O_RDWR, 0600);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(g.write(fd, "temporary"), 9);
  EXPECT_EQ(g.cat("/proc/self/fd/" + std::to_string(fd)), "temporary");
  EXPECT_EQ(g.call("linkat", {as_word(fd), g.put(""), as_word(AT_FDCWD), g.put("/rw/kept"), AT_EMPTY_PATH}), 0);
  EXPECT_EQ(p.s.text("rw/kept"), "temporary");
}

TEST(Open, DevicesAreThereWhateverIsShared) {
  Guest g({});
  std::int64_t null = g.open("/dev/null", O_RDWR), zero = g.open("/dev/zero"), full = g.open("/dev/full", O_RDWR);
  ASSERT_GE(null, 0);
  EXPECT_EQ(g.write(null, "gone"), 4);
  EXPECT_EQ(g.read_all(null), "");
  EXPECT_EQ(g.read_all(zero, 5), std::string(5, '\0'));
  EXPECT_EQ(g.write(full, "x"), -ENOSPC);
  EXPECT_EQ(g.read_all(g.open("/dev/urandom"), 32).size(), 32u);
  EXPECT_NE(g.read_all(g.open("/dev/urandom"), 32), g.read_all(g.open("/dev/random"), 32));
  EXPECT_TRUE(S_ISCHR(g.mode("/dev/null")));
  EXPECT_EQ(g.open("/dev/new", O_CREAT | O_RDWR), -EACCES);
  EXPECT_EQ(g.call("unlink", {g.put("/dev/null")}), -EPERM);
  EXPECT_EQ(g.call("chmod", {g.put("/dev/null"), 0}), -EPERM);
  EXPECT_EQ(g.call("fchmod", {as_word(null), 0}), -EPERM);
}

TEST(Open, StandardStreamsByPathKeepWhatTheyWereGivenFor) {
  Scratch s;
  s.file("input", "input");
  s.file("output", "");
  HostFd in(::open((s.path / "input").c_str(), O_RDONLY)), out(::open((s.path / "output").c_str(), O_WRONLY));
  Guest g({});
  g.process->files.attach_stdio(in.get(), out.get(), -1);
  EXPECT_EQ(g.open("/dev/stdin", O_RDWR), -EACCES);
  EXPECT_EQ(g.open("/dev/stdin", O_WRONLY), -EACCES);
  EXPECT_EQ(g.open("/dev/stdout", O_RDONLY), -EACCES);
  EXPECT_EQ(g.open("/dev/stderr", O_WRONLY), -ENOENT);
  EXPECT_EQ(g.call("fchmod", {1, 0777}), -EPERM);
  EXPECT_EQ(g.cat("/dev/stdin"), "input");
  EXPECT_EQ(g.write(g.open("/dev/stdout", O_WRONLY), "ok"), 2);
  EXPECT_EQ(s.text("output"), "ok");
}

TEST(Open, PathDescriptorsOnlyName) {
  Pair p;
  Guest& g = *p.guest;
  std::int64_t fd = g.open("/rw/file", O_PATH);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(g.read_all(fd), error(EBADF));
  EXPECT_EQ(g.call("fchmod", {as_word(fd), 0600}), -EBADF);
  EXPECT_EQ(g.call("ftruncate", {as_word(fd), 0}), -EBADF);
  EXPECT_EQ(g.call("fsync", {as_word(fd)}), -EBADF);
  EXPECT_EQ(g.call("lseek", {as_word(fd), 0, SEEK_SET}), -EBADF);
  EXPECT_EQ(g.call("fcntl", {as_word(fd), F_GETFL}), O_PATH);
  EXPECT_EQ(g.cat("/proc/self/fd/" + std::to_string(fd)), "text");
  std::int64_t link = g.open("/rw/link", O_PATH | O_NOFOLLOW);
  std::uint64_t out = g.room(64);
  EXPECT_EQ(g.call("readlinkat", {as_word(link), g.put(""), out + 64, 60}), 4);
  std::int64_t dir = g.open("/rw/dir", O_PATH | O_DIRECTORY);
  EXPECT_GE(g.call("openat", {as_word(dir), g.put("../file"), O_RDONLY, 0}), 0);
  EXPECT_EQ(g.names(dir), std::vector<std::string>{error(EBADF)});
}

TEST(Open, Openat2ChecksItsStructure) {
  Pair p;
  Guest& g = *p.guest;
  struct How {
    std::uint64_t flags, mode, resolve, extra;
  };
  auto call = [&](How how, std::uint64_t size) {
    std::uint64_t path = g.put("/rw/file");
    return g.call("openat2", {as_word(AT_FDCWD), path, g.put_object(how), size});
  };
  EXPECT_GE(call({O_RDONLY, 0, 0, 0}, 24), 0);
  EXPECT_GE(call({O_RDONLY, 0, 0, 0}, 32), 0);
  EXPECT_EQ(call({O_RDONLY, 0, 0, 1}, 32), -E2BIG);
  EXPECT_EQ(call({O_RDONLY, 0600, 0, 0}, 24), -EINVAL);
  EXPECT_EQ(call({1ull << 40, 0, 0, 0}, 24), -EINVAL);
  EXPECT_EQ(call({O_RDONLY, 0, 0, 0}, 8), -EINVAL);
  EXPECT_EQ(call({O_RDONLY, 0, 8, 0}, 24), -EXDEV);  // RESOLVE_BENEATH, of an absolute path
  EXPECT_EQ(call({O_RDONLY, 0, 0x40, 0}, 24), -EINVAL);
  EXPECT_EQ(call({O_PATH | O_RDWR, 0, 0, 0}, 24), -EINVAL);
}

TEST(Open, AFifoJoinsTwoOpeners) {
  Pair p;
  Guest& g = *p.guest;
  ASSERT_EQ(g.call("mknod", {g.put("/rw/fifo"), S_IFIFO | 0600, 0}), 0);
  EXPECT_EQ(g.open("/rw/fifo", O_WRONLY | O_NONBLOCK), -ENXIO);
  std::thread host([&] {
    HostFd other(::open((p.s.path / "rw/fifo").c_str(), O_WRONLY));
    EXPECT_EQ(::write(other.get(), "through", 7), 7);
  });
  std::int64_t fd = g.open("/rw/fifo");
  EXPECT_EQ(g.read_all(fd), "through");
  host.join();
}

}  // namespace
}  // namespace ramet::vmm
