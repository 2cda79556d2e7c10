// Files below a directory: files DIRECTORY. Calls the file system calls one by one and prints what they say.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "check.h"

static int directory;

static void write_file(const char* name, const char* text) {
  int fd = openat(directory, name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

static void reading_and_writing(void) {
  char buffer[64] = {0};
  int fd = openat(directory, "data", O_RDWR | O_CREAT | O_EXCL, 0640);
  CHECK(fd >= 0);
  CHECK_ERRNO(openat(directory, "data", O_RDWR | O_CREAT | O_EXCL, 0640), EEXIST);
  CHECK(write(fd, "hello, file\n", 12) == 12);
  CHECK(pwrite(fd, "HELLO", 5, 0) == 5 && lseek(fd, 0, SEEK_CUR) == 12);
  CHECK(lseek(fd, 0, SEEK_SET) == 0 && read(fd, buffer, 64) == 12 && read(fd, buffer + 12, 52) == 0);
  CHECK(memcmp(buffer, "HELLO, file\n", 12) == 0);
  CHECK(pread(fd, buffer, 4, 7) == 4 && memcmp(buffer, "file", 4) == 0);
  struct iovec out[3] = {{"one ", 4}, {"", 0}, {"two\n", 4}}, in[2] = {{buffer, 3}, {buffer + 10, 20}};
  CHECK(writev(fd, out, 3) == 8);
  CHECK(preadv(fd, in, 2, 12) == 8 && memcmp(buffer, "one", 3) == 0 && memcmp(buffer + 10, " two\n", 5) == 0);
  CHECK(pwritev(fd, out, 1, 12) == 4);
  CHECK(lseek(fd, 1000, SEEK_END) == 1020 && write(fd, "x", 1) == 1);  // leaves a hole
  CHECK(pread(fd, buffer, 1, 500) == 1 && buffer[0] == 0);
  CHECK(ftruncate(fd, 20) == 0 && lseek(fd, 0, SEEK_END) == 20);
  CHECK(fsync(fd) == 0 && fdatasync(fd) == 0 && syncfs(fd) == 0);
  int processes = open("/proc", O_RDONLY | O_DIRECTORY);
  CHECK(processes >= 0 && syncfs(processes) == 0 && close(processes) == 0);
  CHECK_ERRNO(syncfs(processes), EBADF);
  CHECK(fallocate(fd, 0, 0, 100) == 0 && lseek(fd, 0, SEEK_END) == 100);
  CHECK_ERRNO(lseek(fd, -1, SEEK_SET), EINVAL);
  CHECK_ERRNO(pread(fd, buffer, 1, -1), EINVAL);
  int append = openat(directory, "data", O_WRONLY | O_APPEND);
  CHECK(write(append, "end", 3) == 3 && lseek(append, 0, SEEK_CUR) == 103 && close(append) == 0);
  CHECK_ERRNO(write(append, "x", 1), EBADF);
  int readonly = openat(directory, "data", O_RDONLY);
  CHECK_ERRNO(write(readonly, "x", 1), EBADF);
  CHECK((fcntl(readonly, F_GETFL) & O_ACCMODE) == O_RDONLY && fcntl(readonly, F_GETFD) == 0);
  CHECK(fcntl(readonly, F_SETFD, FD_CLOEXEC) == 0 && fcntl(readonly, F_GETFD) == FD_CLOEXEC);
  int copy = dup(readonly), high = fcntl(readonly, F_DUPFD_CLOEXEC, 50);
  CHECK(copy > readonly && high == 50 && dup2(readonly, 60) == 60 && dup3(readonly, 61, O_CLOEXEC) == 61);
  CHECK(read(copy, buffer, 5) == 5 && lseek(60, 0, SEEK_CUR) == 5);  // one offset for all
  CHECK(close(copy) == 0 && close(high) == 0 && close(60) == 0 && close(61) == 0 && close(readonly) == 0);
  CHECK_ERRNO(close(61), EBADF);
  CHECK_ERRNO(dup(61), EBADF);
  CHECK(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL) == 0);
  CHECK(close(fd) == 0);
  puts("open, read, write, seek, truncate, dup");
}

static void print_stat(const char* name) {
  struct stat s;
  CHECK(fstatat(directory, name, &s, AT_SYMLINK_NOFOLLOW) == 0);
  printf("%s: mode %o size %lld links %lu\n", name, s.st_mode, S_ISDIR(s.st_mode) ? 0 : (long long)s.st_size,
         (unsigned long)(S_ISDIR(s.st_mode) ? 0 : s.st_nlink));
}

static void metadata(const char* path) {
  struct stat a, b;
  char name[4096], target[64];
  snprintf(name, sizeof name, "%s/data", path);
  int fd = open(name, O_RDONLY);
  CHECK(stat(name, &a) == 0 && fstat(fd, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev && a.st_size == 103);
  CHECK(symlinkat("data", directory, "link") == 0 && linkat(directory, "data", directory, "hard", 0) == 0);
  CHECK(readlinkat(directory, "link", target, 64) == 4 && memcmp(target, "data", 4) == 0);
  CHECK_ERRNO(readlinkat(directory, "data", target, 64), EINVAL);
  snprintf(name, sizeof name, "%s/link", path);
  CHECK(lstat(name, &a) == 0 && S_ISLNK(a.st_mode) && stat(name, &a) == 0 && a.st_ino == b.st_ino && a.st_nlink == 2);
  CHECK(fchmod(fd, 0600) == 0 && fchmodat(directory, "hard", 0611, 0) == 0 && fstat(fd, &b) == 0 && (b.st_mode & 07777) == 0611);
  struct timespec times[2] = {{1000000, 5}, {2000000, 6}};
  CHECK(utimensat(directory, "data", times, 0) == 0 && fstat(fd, &b) == 0);
  CHECK(b.st_mtim.tv_sec == 2000000 && b.st_mtim.tv_nsec == 6 && b.st_atim.tv_sec == 1000000);
  CHECK(faccessat(directory, "data", R_OK | W_OK, 0) == 0);
  CHECK_ERRNO(faccessat(directory, "nothing", F_OK, 0), ENOENT);
  struct statx x;
  CHECK(statx(directory, "data", 0, STATX_BASIC_STATS, &x) == 0 && x.stx_size == 103);
  struct statfs fs;
  CHECK(fstatfs(fd, &fs) == 0 && fs.f_bsize > 0 && statfs(path, &fs) == 0);
  print_stat("data");
  print_stat("link");
  CHECK(close(fd) == 0);
}

static int by_name(const void* a, const void* b) { return strcmp(*(char* const*)a, *(char* const*)b); }
static void list(void) {
  DIR* dir = fdopendir(openat(directory, ".", O_RDONLY | O_DIRECTORY));
  CHECK(dir);
  char* names[600];
  int n = 0;
  for (struct dirent* e; (e = readdir(dir)) && n < 600;) names[n++] = strdup(e->d_name);
  rewinddir(dir);
  int again = 0;
  while (readdir(dir)) ++again;
  CHECK(again == n && closedir(dir) == 0);
  qsort(names, (size_t)n, sizeof names[0], by_name);
  printf("%d entries:", n);
  for (int i = 0; i < n && i < 12; ++i) printf(" %s", names[i]);
  puts("");
  while (n) free(names[--n]);
}

static void directories(const char* path) {
  char name[4096], cwd[4096];
  CHECK(mkdirat(directory, "sub", 0755) == 0);
  CHECK_ERRNO(mkdirat(directory, "sub", 0755), EEXIST);
  for (int i = 0; i < 300; ++i) {
    snprintf(name, sizeof name, "sub-%03d", i);
    write_file(name, name);
  }
  list();
  for (int i = 0; i < 300; ++i) {
    snprintf(name, sizeof name, "sub-%03d", i);
    CHECK(unlinkat(directory, name, 0) == 0);
  }
  write_file("sub/inside", "inside\n");
  CHECK_ERRNO(unlinkat(directory, "sub", AT_REMOVEDIR), ENOTEMPTY);
  CHECK_ERRNO(unlinkat(directory, "sub", 0), EISDIR);
  CHECK_ERRNO(openat(directory, "sub", O_WRONLY), EISDIR);
  CHECK_ERRNO(openat(directory, "data/x", O_RDONLY), ENOTDIR);
  CHECK_ERRNO(openat(directory, "nowhere/x", O_RDONLY), ENOENT);
  CHECK(chdir(path) == 0 && chdir("sub") == 0 && getcwd(cwd, sizeof cwd) && strcmp(cwd + strlen(cwd) - 4, "/sub") == 0);
  CHECK(access("inside", R_OK) == 0 && access("../data", R_OK) == 0);
  CHECK(renameat(AT_FDCWD, "inside", directory, "moved") == 0 && rename("../moved", "../moved2") == 0);
  CHECK_ERRNO(rename("absent", "x"), ENOENT);
  write_file("other", "other\n");
  CHECK_ERRNO(syscall(SYS_renameat2, directory, "other", directory, "moved2", 1 /* RENAME_NOREPLACE */), EEXIST);
  CHECK(fchdir(directory) == 0 && access("moved2", F_OK) == 0);
  CHECK(rmdir("sub") == 0 && unlink("link") == 0 && unlink("hard") == 0);
  CHECK(truncate("data", 50) == 0);
  CHECK((umask(077), umask(022)) == 077);
  list();
  puts("directories, rename, unlink");
}

static void unlinked_and_large(void) {
  int fd = openat(directory, "gone", O_RDWR | O_CREAT, 0600);
  CHECK(fd >= 0 && write(fd, "still here", 10) == 10 && unlinkat(directory, "gone", 0) == 0);
  char buffer[10];
  struct stat s;
  CHECK(pread(fd, buffer, 10, 0) == 10 && memcmp(buffer, "still here", 10) == 0 && fstat(fd, &s) == 0 && s.st_nlink == 0);
  CHECK(close(fd) == 0);
  // Four megabytes through one call, from memory that was never touched before the read.
  size_t size = 4 << 20;
  char* from = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char* to = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (size_t i = 0; i < size; ++i) from[i] = (char)(i * 2654435761u >> 13);
  fd = openat(directory, "large", O_RDWR | O_CREAT | O_TRUNC, 0600);
  CHECK(write(fd, from, size) == (ssize_t)size && pread(fd, to, size, 0) == (ssize_t)size && memcmp(from, to, size) == 0);
  // A buffer that ends in unmapped memory: what fits is done.
  CHECK(munmap(to + 8192, 4096) == 0);
  ssize_t part = pread(fd, to + 4096, 8192, 0);
  CHECK(part == 4096 || (part == -1 && errno == EFAULT));
  CHECK_ERRNO(pread(fd, to + 8192, 4096, 0), EFAULT);
  CHECK_ERRNO(write(fd, wild_address, 10), EFAULT);
  CHECK_ERRNO(openat(directory, wild_address, O_RDONLY), EFAULT);
  int source = openat(directory, "large", O_RDONLY), target = openat(directory, "copy", O_RDWR | O_CREAT, 0600);
  off_t at = 4096;
  CHECK(syscall(SYS_copy_file_range, source, &at, target, NULL, 65536, 0) > 0 || errno == ENOSYS || errno == EXDEV);
  CHECK(close(source) == 0 && close(target) == 0 && unlinkat(directory, "copy", 0) == 0 && close(fd) == 0);
  puts("unlinked, large and badly buffered files");
}

int main(int argc, char** argv) {
  CHECK(argc == 2);
  directory = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  CHECK(directory >= 0);
  reading_and_writing();
  metadata(argv[1]);
  directories(argv[1]);
  unlinked_and_large();
  list();
  return 0;
}
