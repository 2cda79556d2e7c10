// The only program of an emulated machine (PID 1): mounts what tests need, inserts KVM's modules, runs every
// line of /tests.txt, reports, and leaves QEMU. Protocol on the console, one line each, read by `machine`:
//   HOST ready                       the tests begin
//   HOST test N rc=R COMMAND         the Nth command ended so; its output stands before this line
//   HOST end N tests, M failed       nothing is missing
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void insert_modules(void) {
  // In the order they need each other; those that are not there are built into the kernel.
  static const char* const modules[] = {"irqbypass", "kvm", "kvm-amd"};
  for (size_t i = 0; i < sizeof modules / sizeof modules[0]; ++i) {
    char path[64];
    snprintf(path, sizeof path, "/modules/%s.ko", modules[i]);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    if (syscall(SYS_finit_module, fd, "", 0)) printf("cannot insert %s: %s\n", path, strerror(errno));
    close(fd);
  }
}

// KVM patches the kernel's text when the first VM comes and the last one goes; under emulation that is slow,
// so one VM with one vCPU is held for the whole run.
static void hold_a_vm(void) {
  int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
  if (vm < 0 || ioctl(vm, KVM_CREATE_VCPU, 0) < 0) printf("no VM to hold: %s\n", strerror(errno));
  else fcntl(vm, F_SETFD, FD_CLOEXEC);
}

static int run(char* command) {
  char* words[64];
  int n = 0;
  for (char* word = strtok(command, " "); word && n < 63; word = strtok(NULL, " ")) words[n++] = word;
  words[n] = NULL;
  pid_t child = fork();
  if (child == 0) {
    setsid();
    execv(words[0], words);
    perror(words[0]);
    _exit(127);
  }
  int status = 0;
  // Orphans end up here as well.
  for (pid_t ended; (ended = wait(&status)) != child;)
    if (ended < 0 && errno != EINTR) return 125;
  kill(-child, SIGKILL);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(void) {
  const struct { const char *type, *target; } mounts[] = {
      {"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/tmp"}, {"tmpfs", "/dev/shm"}};
  for (size_t i = 0; i < sizeof mounts / sizeof mounts[0]; ++i) {
    mkdir(mounts[i].target, 0755);
    mount(mounts[i].type, mounts[i].target, mounts[i].type, 0, NULL);
  }
  int console = open("/dev/console", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) dup2(console, fd);
  setvbuf(stdout, NULL, _IOLBF, 0);
  insert_modules();
  hold_a_vm();
  setenv("PATH", "/bin:/usr/bin", 1);
  setenv("SCALE", "small", 1);         // emulated: some tests do less
  setenv("KVM_REQUIRED", "1", 1);      // it is there for its KVM: no test is skipped for want of one

  const struct rlimit descriptors = {65536, 65536};  // as an ordinary system has them; the kernel starts with 4096
  if (setrlimit(RLIMIT_NOFILE, &descriptors) != 0) perror("setrlimit");

  puts("HOST ready");
  FILE* tests = fopen("/tests.txt", "re");
  char line[1024], command[1024];
  int count = 0, failed = 0;
  while (tests && fgets(line, sizeof line, tests)) {
    line[strcspn(line, "\n")] = 0;
    if (!*line) continue;
    strcpy(command, line);
    const time_t begin = time(NULL);
    int status = run(command);
    ++count;
    failed += status != 0 && status != 77;
    printf("\nHOST test %d rc=%d %s (%lld s)\n", count, status, line, (long long)(time(NULL) - begin));
  }
  printf("HOST end %d tests, %d failed\n", count, failed);
  fflush(stdout);
  sync();
  reboot(RB_POWER_OFF);
}
