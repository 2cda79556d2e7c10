// What leads where: openat2(2)'s limits of a walk, the parent of a directory that was removed, nodes of mknod(2); and what
// ioctl(2) and /proc tell of open and mapped files.
//   names DIRECTORY        one that may be written
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <linux/sockios.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"

static int opens(int at, const char* path, uint64_t flags, uint64_t mode, uint64_t resolve) {
  struct open_how how = {.flags = flags, .mode = mode, .resolve = resolve};
  return (int)syscall(SYS_openat2, at, path, &how, sizeof how);
}
static void reads(int fd, const char* what) {
  char text[64];
  CHECK(fd >= 0);
  const ssize_t n = read(fd, text, sizeof text - 1);
  CHECK(n >= 0);
  text[n] = 0;
  CHECK(!strcmp(text, what));
  close(fd);
}
static void writes(const char* path, const char* what) {
  int f = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
  CHECK(f >= 0 && write(f, what, strlen(what)) == (ssize_t)strlen(what));
  close(f);
}

static void checks_flags(void) {
  CHECK_ERRNO(opens(AT_FDCWD, "f", O_PATH | O_RDWR, 0, 0), EINVAL);
  CHECK_ERRNO(opens(AT_FDCWD, "new", O_PATH | O_CREAT, 0, 0), EINVAL);
  CHECK_ERRNO(opens(AT_FDCWD, "f", O_PATH | O_TRUNC, 0, 0), EINVAL);
  CHECK(close(opens(AT_FDCWD, "f", O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, 0)) == 0);
  CHECK_ERRNO(opens(AT_FDCWD, "f", O_RDONLY, 0600, 0), EINVAL);
  CHECK_ERRNO(opens(AT_FDCWD, "new", O_CREAT | O_RDWR, 010000, 0), EINVAL);
  CHECK_ERRNO(opens(AT_FDCWD, "f", 1ull << 40, 0, 0), EINVAL);
  CHECK_ERRNO(opens(AT_FDCWD, "f", O_RDONLY, 0, 0x40), EINVAL);
  CHECK_ERRNO(opens(AT_FDCWD, "f", O_RDONLY, 0, 1ull << 40), EINVAL);
  CHECK_ERRNO(opens(AT_FDCWD, "f", O_RDONLY, 0, RESOLVE_BENEATH | RESOLVE_IN_ROOT), EINVAL);
  struct {
    struct open_how how;
    uint64_t more;
  } longer = {.how = {.flags = O_RDONLY}};
  CHECK(close((int)syscall(SYS_openat2, AT_FDCWD, "f", &longer, sizeof longer)) == 0);
  longer.more = 1;
  CHECK_ERRNO(syscall(SYS_openat2, AT_FDCWD, "f", &longer, sizeof longer), E2BIG);
  CHECK_ERRNO(syscall(SYS_openat2, AT_FDCWD, "f", &longer, 23), EINVAL);
  CHECK_ERRNO(syscall(SYS_openat2, AT_FDCWD, "f", NULL, sizeof longer.how), EFAULT);
  CHECK_ERRNO(opens(AT_FDCWD, "new", O_CREAT | O_RDWR, 0600, RESOLVE_CACHED), EAGAIN);
}

static void keeps_to_limits(void) {
  int d = open("d", O_PATH | O_DIRECTORY);
  CHECK(d >= 0);
  reads(opens(d, "e/f", O_RDONLY, 0, RESOLVE_BENEATH), "below");
  reads(opens(d, "e/../e/f", O_RDONLY, 0, RESOLVE_BENEATH), "below");
  CHECK_ERRNO(opens(d, "../f", O_RDONLY, 0, RESOLVE_BENEATH), EXDEV);
  CHECK_ERRNO(opens(d, "e/../../f", O_RDONLY, 0, RESOLVE_BENEATH), EXDEV);
  CHECK_ERRNO(opens(d, "/f", O_RDONLY, 0, RESOLVE_BENEATH), EXDEV);
  CHECK_ERRNO(opens(d, "absolute", O_RDONLY, 0, RESOLVE_BENEATH), EXDEV);
  CHECK_ERRNO(opens(d, "up", O_RDONLY, 0, RESOLVE_BENEATH), EXDEV);
  reads(opens(d, "inner", O_RDONLY, 0, RESOLVE_BENEATH), "below");
  reads(opens(d, "/e/f", O_RDONLY, 0, RESOLVE_IN_ROOT), "below");
  reads(opens(d, "../../../e/f", O_RDONLY, 0, RESOLVE_IN_ROOT), "below");
  reads(opens(d, "absolute", O_RDONLY, 0, RESOLVE_IN_ROOT), "below");
  CHECK_ERRNO(opens(d, "up", O_RDONLY, 0, RESOLVE_IN_ROOT), ENOENT);
  CHECK_ERRNO(opens(d, "/", O_RDWR, 0, RESOLVE_IN_ROOT), EISDIR);
  CHECK_ERRNO(opens(d, "inner", O_RDONLY, 0, RESOLVE_NO_SYMLINKS), ELOOP);
  CHECK_ERRNO(opens(d, "way/f", O_RDONLY, 0, RESOLVE_NO_SYMLINKS), ELOOP);
  reads(opens(d, "way/f", O_RDONLY, 0, RESOLVE_NO_XDEV), "below");
  CHECK(close(opens(d, "inner", O_PATH | O_NOFOLLOW, 0, RESOLVE_NO_SYMLINKS)) == 0);
  reads(opens(d, "inner", O_RDONLY, 0, RESOLVE_NO_MAGICLINKS), "below");
  CHECK_ERRNO(opens(AT_FDCWD, "/proc/self/exe", O_RDONLY, 0, RESOLVE_NO_MAGICLINKS), ELOOP);
  CHECK(close(opens(AT_FDCWD, "/proc/self/status", O_RDONLY, 0, RESOLVE_NO_MAGICLINKS)) == 0);
  CHECK_ERRNO(opens(AT_FDCWD, "/proc/self/status", O_RDONLY, 0, RESOLVE_NO_XDEV), EXDEV);
  char open_file[64];
  int held = open("f", O_RDONLY);
  snprintf(open_file, sizeof open_file, "/proc/self/fd/%d", held);
  CHECK_ERRNO(opens(AT_FDCWD, open_file, O_RDONLY, 0, RESOLVE_NO_MAGICLINKS), ELOOP);
  CHECK_ERRNO(opens(AT_FDCWD, open_file, O_RDONLY, 0, RESOLVE_NO_SYMLINKS), ELOOP);
  int made = opens(d, "e/made", O_CREAT | O_EXCL | O_RDWR, 0600, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
  CHECK(made >= 0 && close(made) == 0 && access("d/e/made", F_OK) == 0);
  CHECK(close(opens(d, "/rooted", O_CREAT | O_RDWR, 0600, RESOLVE_IN_ROOT)) == 0 && access("d/rooted", F_OK) == 0);
  CHECK_ERRNO(opens(d, "../made", O_CREAT | O_RDWR, 0600, RESOLVE_BENEATH), EXDEV);
  CHECK_ERRNO(opens(held, "x", O_RDONLY, 0, RESOLVE_BENEATH), ENOTDIR);
  CHECK_ERRNO(opens(-1, "x", O_RDONLY, 0, RESOLVE_BENEATH), EBADF);
  close(held);
  close(d);
}

static void goes_up_from_removed(const char* top) {
  char here[4096];
  struct stat above, now;
  CHECK(mkdir("r", 0700) == 0 && mkdir("r/s", 0700) == 0 && stat(".", &above) == 0);
  CHECK(chdir("r/s") == 0 && rmdir("../s") == 0);
  CHECK(stat("..", &now) == 0 && S_ISDIR(now.st_mode));
  CHECK(rmdir("../../r") == 0);
  CHECK_ERRNO(getcwd(here, sizeof here) ? 0 : -1, ENOENT);
  CHECK_ERRNO(open("../x", O_CREAT | O_RDWR, 0600), ENOENT);
  CHECK_ERRNO(mkdir("x", 0700), ENOENT);
  CHECK(stat("../..", &now) == 0 && now.st_ino == above.st_ino);
  CHECK(chdir("..") == 0);  // removed as well
  CHECK_ERRNO(getcwd(here, sizeof here) ? 0 : -1, ENOENT);
  CHECK(chdir("..") == 0 && getcwd(here, sizeof here) && !strcmp(here, top));
}

static void makes_nodes(void) {
  struct stat st;
  umask(027);
  CHECK(mknod("socket", S_IFSOCK | 0666, 0) == 0 && stat("socket", &st) == 0 && st.st_mode == (S_IFSOCK | 0640));
  CHECK(mknod("fifo", S_IFIFO | 0666, 0) == 0 && stat("fifo", &st) == 0 && st.st_mode == (S_IFIFO | 0640));
  CHECK(mknod("plain", 0666, 0) == 0 && stat("plain", &st) == 0 && st.st_mode == (S_IFREG | 0640));
  CHECK(mknodat(AT_FDCWD, "regular", S_IFREG | 0604, 0) == 0 && stat("regular", &st) == 0 && st.st_mode == (S_IFREG | 0600));
  CHECK_ERRNO(mknod("socket", S_IFSOCK | 0600, 0), EEXIST);
  CHECK_ERRNO(mknod("x", S_IFDIR | 0600, 0), EPERM);
  CHECK_ERRNO(mknod("x", 0170000, 0), EINVAL);
  CHECK_ERRNO(open("socket", O_RDWR), ENXIO);
  CHECK(unlink("socket") == 0 && unlink("fifo") == 0);
}

static void asks_open_files(void) {
  int s[2], n = -1, p[2];
  int f = open("f", O_RDWR), d = open("d", O_RDONLY | O_DIRECTORY);
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0 && pipe(p) == 0 && f >= 0 && d >= 0);
  CHECK(ioctl(s[0], SIOCOUTQ, &n) == 0 && n == 0 && ioctl(s[0], SIOCINQ, &n) == 0 && n == 0);
  CHECK(write(s[0], "abc", 3) == 3 && ioctl(s[0], SIOCOUTQ, &n) == 0 && n > 0 && ioctl(s[1], SIOCINQ, &n) == 0 && n == 3);
  CHECK(write(p[1], "ab", 2) == 2 && ioctl(p[0], FIONREAD, &n) == 0 && n == 2);
  CHECK_ERRNO(ioctl(p[1], TIOCOUTQ, &n), ENOTTY);
  CHECK_ERRNO(ioctl(f, TIOCOUTQ, &n), ENOTTY);
  CHECK(ioctl(f, FIGETBSZ, &n) == 0 && n > 0 && ioctl(d, FIGETBSZ, &n) == 0 && n > 0);
  CHECK(ioctl(f, FIONREAD, &n) == 0 && n == 5);
  CHECK_ERRNO(ioctl(f, FIONREAD, NULL), EFAULT);
  CHECK_ERRNO(ioctl(f, FIGETBSZ, NULL), EFAULT);
  n = 1;
  CHECK(ioctl(s[0], FIONBIO, &n) == 0 && (fcntl(s[0], F_GETFL) & O_NONBLOCK));
  n = 0;
  CHECK(ioctl(s[0], FIONBIO, &n) == 0 && !(fcntl(s[0], F_GETFL) & O_NONBLOCK));
  CHECK(ioctl(f, FIOCLEX) == 0 && fcntl(f, F_GETFD) == FD_CLOEXEC && ioctl(f, FIONCLEX) == 0 && fcntl(f, F_GETFD) == 0);
  CHECK_ERRNO(ioctl(-1, FIGETBSZ, &n), EBADF);
}

static int is_called(int fd, const char* top, const char* name) {
  char link[64], is[4096], wanted[4200];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  snprintf(wanted, sizeof wanted, "%s/%s", top, name);
  const ssize_t n = readlink(link, is, sizeof is - 1);
  CHECK(n > 0);
  is[n] = 0;
  return !strcmp(is, wanted);
}

// The line of /proc/self/maps for what begins there.
static const char* line_of(const void* start) {
  static char text[65536];
  char wanted[32];
  int f = open("/proc/self/maps", O_RDONLY);
  size_t length = 0;
  for (ssize_t n; (n = read(f, text + length, sizeof text - 1 - length)) > 0;) length += (size_t)n;
  text[length] = 0;
  close(f);
  snprintf(wanted, sizeof wanted, "%lx-", (unsigned long)start);
  char* at = strstr(text, wanted);
  CHECK(at && strchr(at, '\n'));
  *strchr(at, '\n') = 0;
  return at;
}

// As /proc names what was renamed and removed.
static void follows_names(const char* top) {
  int f = open("f", O_RDONLY), d = open("d", O_RDONLY), gone = open("gone", O_RDWR | O_CREAT, 0600);
  CHECK(f >= 0 && d >= 0 && gone >= 0 && ftruncate(gone, 4096) == 0);
  char* p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, gone, 0);
  CHECK(p != MAP_FAILED && strstr(line_of(p), "/gone") && !strstr(line_of(p), "(deleted)"));
  CHECK(is_called(f, top, "f") && is_called(d, top, "d") && is_called(gone, top, "gone"));
  CHECK(rename("f", "d/g") == 0 && is_called(f, top, "d/g") && rename("d/g", "f") == 0);
  CHECK(unlink("gone") == 0 && is_called(gone, top, "gone (deleted)") && strstr(line_of(p), "/gone (deleted)"));
  writes("gone (deleted)", "another");
  CHECK(is_called(gone, top, "gone (deleted)"));
  int named = open("gone (deleted)", O_RDONLY);
  CHECK(is_called(named, top, "gone (deleted)") && unlink("gone (deleted)") == 0);
  CHECK(is_called(named, top, "gone (deleted) (deleted)"));
  CHECK(mkdir("empty", 0700) == 0);
  int e = open("empty", O_RDONLY);
  CHECK(rmdir("empty") == 0 && is_called(e, top, "empty (deleted)"));
  CHECK(munmap(p, 4096) == 0);
  close(f), close(d), close(gone), close(named), close(e);
}

// Protection is shown as it was asked for; what may be written can be read for all that.
static void shows_protection(void) {
  char* p = mmap(NULL, 3 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED && strstr(line_of(p), " ---p "));
  CHECK(mprotect(p, 4096, PROT_WRITE) == 0 && strstr(line_of(p), " -w-p "));
  *(volatile char*)p = 3;
  CHECK(*(volatile char*)p == 3);
  CHECK(mprotect(p, 4096, PROT_READ | PROT_WRITE) == 0 && strstr(line_of(p), " rw-p ") && *p == 3);
  CHECK(mprotect(p + 8192, 4096, PROT_EXEC) == 0 && strstr(line_of(p + 8192), " --xp "));
  int w = open("written", O_WRONLY | O_CREAT, 0600);
  CHECK(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, w, 0) == MAP_FAILED && errno == EACCES);
  CHECK(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, w, 0) == MAP_FAILED && errno == EACCES);
  CHECK(munmap(p, 3 * 4096) == 0 && unlink("written") == 0);
  close(w);
}

int main(int argc, char** argv) {
  CHECK(argc == 2 && chdir(argv[1]) == 0);
  char top[4096];
  CHECK(getcwd(top, sizeof top));
  CHECK(mkdir("d", 0755) == 0 && mkdir("d/e", 0755) == 0);
  writes("f", "above");
  writes("d/e/f", "below");
  CHECK(symlink("/e/f", "d/absolute") == 0 && symlink("../f", "d/up") == 0 && symlink("e/f", "d/inner") == 0 && symlink("e", "d/way") == 0);
  checks_flags();
  keeps_to_limits();
  goes_up_from_removed(top);
  makes_nodes();
  asks_open_files();
  follows_names(top);
  shows_protection();
  CHECK(unlink("d/absolute") == 0 && unlink("d/up") == 0);  // what diff(1) cannot follow
  puts("names lead where they should");
  return 0;
}
