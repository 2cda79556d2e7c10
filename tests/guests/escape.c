// Tries to get out of what was shared: escape DIRECTORY, where only DIRECTORY was shared (never run natively).
// Every way must fail; the attempts and their errors are printed for the curious.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/openat2.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"

static int attempts;
// 1 if the descriptor or status says that something was reached.
static void must_fail(const char* what, long result) {
  ++attempts;
  if (result < 0) return;
  fprintf(stderr, "escaped: %s\n", what);
  exit(1);
}

int main(int argc, char** argv) {
  CHECK(argc == 2 && chdir(argv[1]) == 0);
  char path[4096], text[256];
  struct stat s;
  must_fail("absolute", open("/etc/passwd", O_RDONLY));
  must_fail("absolute stat", stat("/etc/passwd", &s));
  must_fail("relative", open("../../../../../../etc/passwd", O_RDONLY));
  must_fail("relative stat", stat("../../../../../../etc/hostname", &s));
  snprintf(path, sizeof path, "%s/../../../../../etc/passwd", argv[1]);
  must_fail("dots", open(path, O_RDONLY));
  CHECK(symlink("/etc/passwd", "absolute") == 0 && symlink("../../../../../../etc/passwd", "relative") == 0);
  CHECK(symlink("/", "root") == 0 && symlink("../../../../../..", "up") == 0);
  must_fail("absolute link", open("absolute", O_RDONLY));
  must_fail("relative link", open("relative", O_RDONLY));
  must_fail("link to /", open("root/etc/passwd", O_RDONLY));
  must_fail("link upwards", open("up/etc/passwd", O_RDONLY));
  must_fail("stat through a link", stat("absolute", &s));
  must_fail("create through a link", open("up/escaped", O_WRONLY | O_CREAT, 0600));
  must_fail("truncate through a link", truncate("absolute", 0));
  must_fail("chmod through a link", chmod("absolute", 0777));
  must_fail("rename out", rename("absolute", "up/escaped"));
  must_fail("rename out by dots", rename("absolute", "../../../../../tmp/escaped"));
  must_fail("link in", link("/etc/passwd", "hard"));
  must_fail("link in through a link", linkat(AT_FDCWD, "absolute", AT_FDCWD, "hard", AT_SYMLINK_FOLLOW));
  must_fail("mkdir outside", mkdir("up/escaped", 0700));
  must_fail("unlink outside", unlink("up/tmp/escaped-not-there"));
  must_fail("mknod of a device", mknod("device", S_IFCHR | 0600, (1 << 8) | 1));
  const int self = open("/proc/self/exe", O_RDONLY);
  CHECK(self >= 0);
  must_fail("chmod of the program", chmod("/proc/self/exe", 0755));
  must_fail("fchmod of the program", fchmod(self, 0755));
  must_fail("chown of the program", fchown(self, geteuid(), getegid()));
  must_fail("times of the program", futimens(self, NULL));
  must_fail("writing the program", open("/proc/self/exe", O_RDWR));
  must_fail("/proc/self/root", open("/proc/self/root/etc/passwd", O_RDONLY));
  must_fail("/proc/2", open("/proc/2/environ", O_RDONLY));  // 1 is the guest's own first process
  must_fail("/proc/self/cwd/..", open("/proc/self/cwd/../../../../etc/passwd", O_RDONLY));
  must_fail("/dev/kvm", open("/dev/kvm", O_RDWR));
  must_fail("/dev/mem", open("/dev/mem", O_RDONLY));
  must_fail("/dev/tty", open("/dev/tty", O_RDWR));
  int here = open(".", O_RDONLY | O_DIRECTORY);
  CHECK(here >= 0);
  must_fail("openat upwards", openat(here, "../../../../etc/passwd", O_RDONLY));
  must_fail("openat absolute", openat(here, "/etc/passwd", O_RDONLY));
  struct open_how how = {.flags = O_RDONLY};
  must_fail("openat2", syscall(SYS_openat2, here, "../../../../etc/passwd", &how, sizeof how));
  must_fail("open by handle", syscall(SYS_open_by_handle_at, here, text, O_RDONLY));
  snprintf(path, sizeof path, "/proc/self/fd/%d/../../../etc/passwd", here);
  must_fail("descriptor and dots", open(path, O_RDONLY));
  must_fail("chroot", chroot("."));
  must_fail("mount", syscall(SYS_mount, "/", "root", "none", 4096, 0));
  must_fail("pivot_root", syscall(SYS_pivot_root, ".", "."));
  must_fail("ptrace", syscall(SYS_ptrace, 16, getppid(), 0, 0));
  must_fail("kill of others", kill(getpid() == 1 ? 2 : 1, SIGKILL));
  if (getppid() > 0) must_fail("kill of the VMM", kill(getppid(), SIGKILL));
  must_fail("chdir out", chdir("/etc"));
  must_fail("renamed directory", renameat(here, "up", AT_FDCWD, "../../x"));
  printf("%d ways out are closed\n", attempts);
  return 0;
}
