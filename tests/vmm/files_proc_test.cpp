// /proc and /sys as programs read them.
#include <sys/statfs.h>

#include <set>

#include "tests/vmm/files_guest.hpp"
#include "vmm/linux/memory/sysv.hpp"
#include "vmm/linux/proc/content.hpp"
#include "vmm/linux/processes/family.hpp"

namespace ramet::vmm {
namespace {

TEST(Proc, EveryFileThatIsListedCanBeLookedAtAndOpened) {
  Guest g({});
  std::string pid = std::to_string(g.process->pid);
  unsigned files = 0;
  for (std::string top : {"/proc", "/sys", "/dev"}) {
    std::vector<std::string> pending{top};
    while (!pending.empty()) {
      std::string dir = pending.back();
      pending.pop_back();
      std::int64_t fd = g.open(dir, O_RDONLY | O_DIRECTORY);
      ASSERT_GE(fd, 0) << dir;
      for (const std::string& name : g.names(fd)) {
        if (name == "." || name == "..") continue;
        std::string path = dir + "/" + name;
        std::int64_t mode = g.mode(path, "lstat");
        ASSERT_GT(mode, 0) << path;
        if (S_ISDIR(mode)) pending.push_back(path);
        if (S_ISLNK(mode)) {
          EXPECT_NE(g.link(path).substr(0, 5), "error") << path;
        }
        if (!S_ISREG(mode)) continue;
        ++files;
        if (mode & 0200) {  // the test device has nothing to read, others are read elsewhere
          EXPECT_GE(g.open(path, O_RDWR), 0) << path;
          continue;
        }
        std::int64_t file = g.open(path);
        EXPECT_GE(file, 0) << path;
        if (name != "mem") {  // there is no memory at its beginning
          EXPECT_NE(g.read_all(file).substr(0, 5), "error") << path;
        }
        EXPECT_EQ(g.open(path, O_WRONLY), -EACCES) << path;
        EXPECT_EQ(g.open(path, O_RDWR), -EACCES) << path;
        EXPECT_EQ(g.write(file, "x"), -EBADF) << path;
        g.call("close", {as_word(file)});
      }
      g.call("close", {as_word(fd)});
    }
  }
  EXPECT_GT(files, 30u);
  EXPECT_EQ(g.link("/proc/self"), pid);
  EXPECT_EQ(g.link("/proc/thread-self"), pid + "/task/" + pid);
  EXPECT_EQ(g.mode("/proc/" + std::to_string(g.process->pid + 1)), -ENOENT);
  EXPECT_EQ(g.mode("/proc/0" + pid), -ENOENT);
}

TEST(Proc, TheProgramIsDescribed) {
  Guest g({});
  g.process->image()->environment = {"A=1", "B=2"};
  g.process->image()->auxv = {{6, 4096}, {0, 0}};
  EXPECT_EQ(g.cat("/proc/self/cmdline"), std::string("program\0argument\0", 17));
  EXPECT_EQ(g.cat("/proc/self/environ"), std::string("A=1\0B=2\0", 8));
  EXPECT_EQ(g.cat("/proc/self/auxv").size(), 32u);
  EXPECT_EQ(g.cat("/proc/self/comm"), "program\n");
  EXPECT_EQ(g.link("/proc/self/exe"), "/bin/program");
  std::string stat = g.cat("/proc/self/stat");
  EXPECT_EQ(std::count(stat.begin(), stat.end(), ' '), 51) << stat;  // 52 fields
  EXPECT_EQ(stat.find(std::to_string(g.process->pid) + " (program) R "), 0u);
  EXPECT_NE(g.cat("/proc/self/status").find("\nThreads:\t1\n"), std::string::npos);
  EXPECT_EQ(g.cat("/proc/self/task/" + std::to_string(g.process->pid) + "/comm"), "program\n");
}

TEST(Proc, TheExecutableOpensTheProgramEvenWhereItIsNotShared) {
  Scratch s;
  s.file("elsewhere", "ELF");
  Guest g({});
  auto file = std::make_shared<OpenFile>();
  file->host = HostFd(::open((s.path / "elsewhere").c_str(), O_RDONLY));
  file->path = "/bin/program";
  g.process->image()->file = file;
  EXPECT_EQ(g.cat("/proc/self/exe"), "ELF");
  EXPECT_EQ(g.open("/proc/self/exe", O_RDWR), -EROFS);
  EXPECT_TRUE(S_ISREG(g.mode("/proc/self/exe")));
  EXPECT_TRUE(S_ISLNK(g.mode("/proc/self/exe", "lstat")));
  EXPECT_EQ(g.open("/proc/self/exe", O_RDONLY | O_NOFOLLOW), -ELOOP);
}

TEST(Proc, MemoryIsThatOfTheMachine) {
  Guest g({});
  std::string info = g.cat("/proc/meminfo");
  EXPECT_EQ(info.find("MemTotal:          65536 kB\nMemFree:"), 0u) << info;
  EXPECT_NE(info.find("\nMemAvailable:"), std::string::npos);
}

TEST(Proc, CpusAreThoseTheHostLetsUsRunOn) {
  Guest g({});
  std::string info = g.cat("/proc/cpuinfo"), list = g.cat("/sys/devices/system/cpu/online");
  cpu_set_t set;
  ASSERT_EQ(::sched_getaffinity(0, sizeof set, &set), 0);
  std::size_t processors = 0;
  for (std::size_t at = 0; (at = info.find("processor\t:", at)) != info.npos; ++at) ++processors;
  EXPECT_EQ(processors, static_cast<std::size_t>(CPU_COUNT(&set)));
  EXPECT_NE(info.find("flags\t\t: fpu sse2\n"), std::string::npos);
  EXPECT_EQ(list.back(), '\n');
}

TEST(Proc, SettingsAreThoseOfTheGuest) {
  Guest g({});
  EXPECT_EQ(g.cat("/proc/sys/kernel/threads-max"), std::to_string(Family::kMaxThreads) + "\n");
  EXPECT_EQ(g.cat("/proc/sys/kernel/shmmni"), std::to_string(SysvMemory::kMaxSegments) + "\n");
  EXPECT_EQ(g.cat("/proc/sys/fs/nr_open"), std::to_string(Limits::kOpenFiles) + "\n");
  EXPECT_EQ(g.cat("/proc/sys/kernel/hostname"), "ramet\n");
  const std::string cpu = std::to_string(host_cpus().front()),
                    topology = "/sys/devices/system/cpu/cpu" + cpu + "/topology/";
  EXPECT_EQ(g.cat(topology + "core_id"), cpu + "\n");
  EXPECT_EQ(g.cat(topology + "core_siblings_list"), g.cat("/sys/devices/system/cpu/online"));
  EXPECT_EQ(g.mode(topology + "core"), -ENOENT);
  EXPECT_EQ(g.mode(topology + "core_id/x"), -ENOTDIR);
  EXPECT_EQ(g.mode("/sys/devices/system/cpu/cpu" + cpu + "/topologycore_id"), -ENOENT);
}

TEST(Proc, MountsAreTheShares) {
  Scratch s;
  Guest g({{s.path.string(), "/with space", true}});
  std::string mounts = g.cat("/proc/mounts");
  EXPECT_NE(mounts.find("ramet /with\\040space ramet rw,relatime 0 0\n"), std::string::npos) << mounts;
  EXPECT_NE(mounts.find("proc /proc proc ro"), std::string::npos);
  EXPECT_EQ(mounts.find(s.path.string()), std::string::npos) << "host paths are nobody's business";
}

TEST(Proc, DescriptorsAreListedAndNamed) {
  Scratch s;
  s.file("f", "text");
  Guest g({{s.path.string(), "/w", true}});
  std::int64_t fd = g.open("/w/f");
  std::string path = "/proc/self/fd/" + std::to_string(fd);
  EXPECT_EQ(g.link(path), "/w/f");
  EXPECT_EQ(g.cat(path), "text");
  EXPECT_EQ(g.link("/dev/fd/" + std::to_string(fd)), "/w/f");
  g.call("pipe", {g.buffer});
  auto p = g.get<std::array<int, 2>>(g.buffer);
  EXPECT_EQ(g.link("/proc/self/fd/" + std::to_string(p[0])).substr(0, 6), "pipe:[");
  // A directory behind a descriptor can be walked through, to where the guest may go only.
  std::int64_t dir = g.open("/w");
  std::string by_fd = "/proc/self/fd/" + std::to_string(dir);
  EXPECT_EQ(g.cat(by_fd + "/f"), "text");
  EXPECT_EQ(g.cat(by_fd + "/../w/f"), "text");
  EXPECT_EQ(g.mode(by_fd + "/../../etc"), -ENOENT);
  EXPECT_EQ(g.cat("/proc/self/fd/" + std::to_string(fd) + "/x"), error(ENOTDIR));
  EXPECT_EQ(g.cat("/proc/self/fd/999"), error(ENOENT));
  EXPECT_TRUE(as_set(g.names(g.open("/proc/self/fd"))).contains(std::to_string(fd)));
}

TEST(Proc, StatOfADescriptorAgreesWithStatOfItsPath) {
  Guest g({});
  for (const char* path : {"/proc", "/proc/meminfo", "/proc/self", "/dev/null", "/sys/kernel"}) {
    std::uint64_t p = g.put(path), out = g.room(sizeof(struct stat));
    ASSERT_EQ(g.call("stat", {p, out}), 0);
    auto by_path = g.get<struct stat>(out);
    std::int64_t fd = g.open(path);
    out = g.room(sizeof(struct stat));
    ASSERT_EQ(g.call("fstat", {as_word(fd), out}), 0);
    auto by_fd = g.get<struct stat>(out);
    EXPECT_EQ(by_path.st_mode, by_fd.st_mode) << path;
    EXPECT_EQ(by_path.st_rdev, by_fd.st_rdev) << path;
    if (std::string(path) != "/dev/null") {
      EXPECT_EQ(by_path.st_ino, by_fd.st_ino) << path;
    }
    g.call("close", {as_word(fd)});
  }
}

TEST(Proc, StatxAndStatfsAnswerForSyntheticFiles) {
  Guest g({});
  std::uint64_t path = g.put("/proc/meminfo"), out = g.room(256);
  ASSERT_EQ(g.call("statx", {as_word(AT_FDCWD), path, 0, 0x7ff, out}), 0);
  EXPECT_EQ(g.get<struct statx>(out).stx_mode, S_IFREG | 0444);
  path = g.put("/proc");
  out = g.room(sizeof(struct statfs));
  ASSERT_EQ(g.call("statfs", {path, out}), 0);
  EXPECT_EQ(g.get<struct statfs>(out).f_type, 0x9fa0);
  EXPECT_EQ(g.call("access", {g.put("/proc/meminfo"), R_OK}), 0);
  EXPECT_EQ(g.call("access", {g.put("/proc/meminfo"), W_OK}), -EACCES);
  EXPECT_EQ(g.call("access", {g.put("/dev/null"), R_OK | W_OK}), 0);
}

}  // namespace
}  // namespace ramet::vmm
