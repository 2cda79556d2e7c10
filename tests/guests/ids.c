// Users, groups and capabilities: a program that starts as root gives root away, and is refused then what root may.
//   ids DIRECTORY          one that may be written
//   ids resumes            reads its input, and is who it was before
// As an ordinary user it looks at what it may not become.
#define _GNU_SOURCE
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { kUser = 4321, kGroup = 5432, kOther = 9876 };

static void ends_well(pid_t child) {
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
}

// Runs it in a child, whose ids are its own.
static void apart(void (*what)(void)) {
  fflush(stdout);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    what();
    fflush(stdout);
    _exit(0);
  }
  ends_well(child);
}

static struct __user_cap_data_struct* capabilities(void) {
  static struct __user_cap_data_struct sets[2];
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  CHECK(syscall(SYS_capget, &header, sets) == 0);
  return sets;
}
static int set_capabilities(struct __user_cap_data_struct* sets) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  return (int)syscall(SYS_capset, &header, sets);
}
static int has(int capability) { return capabilities()[0].effective >> capability & 1; }

// What proc(5) says of the caller, of the line that begins so.
static const char* status_line(const char* name) {
  static char line[256];
  FILE* f = fopen("/proc/self/status", "r");
  CHECK(f);
  while (fgets(line, sizeof line, f))
    if (!strncmp(line, name, strlen(name))) {
      fclose(f);
      line[strcspn(line, "\n")] = 0;
      return line;
    }
  CHECK(!"no such line");
  return NULL;
}

static void become_user(void) {
  gid_t groups[] = {kOther, kGroup + 1};
  CHECK(setgroups(2, groups) == 0);
  CHECK(setresgid(kGroup, kGroup, kGroup) == 0 && setresuid(kUser, kUser, kUser) == 0);
}

static void gives_root_away(void) {
  become_user();
  CHECK(getuid() == kUser && geteuid() == kUser && getgid() == kGroup && getegid() == kGroup);
  uid_t r, e, s;
  CHECK(getresuid(&r, &e, &s) == 0 && r == kUser && e == kUser && s == kUser);
  gid_t groups[4];
  CHECK(getgroups(0, NULL) == 2 && getgroups(4, groups) == 2 && groups[0] == kGroup + 1 && groups[1] == kOther);
  CHECK_ERRNO(getgroups(1, groups), EINVAL);
  CHECK_ERRNO(setuid(0), EPERM);
  CHECK_ERRNO(seteuid(0), EPERM);
  CHECK_ERRNO(setreuid(0, -1), EPERM);
  CHECK_ERRNO(setresuid(-1, -1, 0), EPERM);
  CHECK_ERRNO(setgid(0), EPERM);
  CHECK_ERRNO(setgroups(0, NULL), EPERM);
  CHECK_ERRNO(setuid(-1), EINVAL);
  CHECK(setfsuid(0) == kUser && setfsuid(-1) == kUser);
  CHECK(setuid(kUser) == 0 && setgid(kGroup) == 0);
  CHECK(!capabilities()[0].effective && !capabilities()[0].permitted);
  CHECK_ERRNO(prctl(PR_CAPBSET_DROP, CAP_CHOWN), EPERM);
  puts(status_line("Uid:"));
  puts(status_line("Gid:"));
  puts(status_line("Groups:"));
  puts(status_line("CapEff:"));
}

static void goes_to_and_fro(void) {
  CHECK(has(CAP_SETUID) && has(CAP_CHOWN));
  CHECK(seteuid(kUser) == 0 && getuid() == 0 && geteuid() == kUser);
  CHECK(!has(CAP_SETUID) && (capabilities()[0].permitted & 1u << CAP_SETUID));
  CHECK(seteuid(0) == 0 && has(CAP_SETUID));
  CHECK(setfsuid(kUser) == 0 && setfsuid(-1) == kUser && !has(CAP_DAC_OVERRIDE) && has(CAP_SETUID));
  CHECK(setfsuid(0) == kUser && has(CAP_DAC_OVERRIDE));
  CHECK(setreuid(kUser, 0) == 0);  // the saved id is root's, too
  CHECK(setresuid(-1, kUser, -1) == 0 && seteuid(0) == 0);
  CHECK(setuid(kUser) == 0);  // has CAP_SETUID: all three
  CHECK_ERRNO(seteuid(0), EPERM);
}

static void keeps_capabilities(void) {
  CHECK(prctl(PR_GET_KEEPCAPS) == 0 && prctl(PR_SET_KEEPCAPS, 1) == 0 && prctl(PR_GET_KEEPCAPS) == 1);
  CHECK_ERRNO(prctl(PR_SET_KEEPCAPS, 2), EINVAL);
  CHECK(setresuid(kUser, kUser, kUser) == 0);
  struct __user_cap_data_struct* sets = capabilities();
  CHECK(!sets[0].effective && (sets[0].permitted & 1u << CAP_CHOWN));
  memset(sets + 1, 0, sizeof *sets);
  sets[0].effective = sets[0].permitted = sets[0].inheritable = 1u << CAP_DAC_READ_SEARCH;
  CHECK(set_capabilities(sets) == 0);
  int f = open("secret", O_RDONLY);
  CHECK(f >= 0);
  CHECK_ERRNO(open("secret", O_WRONLY), EACCES);
  CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0) == 0);
  CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_DAC_READ_SEARCH, 0, 0) == 1);
  CHECK_ERRNO(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0), EPERM);
  sets[0].effective = 0;
  sets[0].permitted |= 1u << CAP_CHOWN;
  CHECK_ERRNO(set_capabilities(sets), EPERM);  // what is gone stays gone
  sets[0].permitted = 0;
  CHECK(set_capabilities(sets) == 0 && !has(CAP_DAC_READ_SEARCH));
  CHECK_ERRNO(open("secret", O_RDONLY), EACCES);
}

static void bounds_capabilities(void) {
  CHECK(prctl(PR_CAPBSET_READ, CAP_CHOWN) == 1 && prctl(PR_CAPBSET_DROP, CAP_CHOWN) == 0 && prctl(PR_CAPBSET_READ, CAP_CHOWN) == 0);
  CHECK_ERRNO(prctl(PR_CAPBSET_READ, 64), EINVAL);
  CHECK(prctl(PR_GET_SECUREBITS) == 0);
  CHECK(prctl(PR_SET_SECUREBITS, 1 << 2 | 1 << 3) == 0);  // NO_SETUID_FIXUP, locked
  CHECK_ERRNO(prctl(PR_SET_SECUREBITS, 0), EPERM);
  CHECK(setresuid(kUser, kUser, kUser) == 0 && has(CAP_KILL) && prctl(PR_GET_SECUREBITS) == (1 << 2 | 1 << 3));
}

// What a user makes is its own.
static void makes_files(void) {
  struct stat st;
  const struct timespec times[2] = {{1, 0}, {2, 0}};
  int own = open("open/own", O_CREAT | O_EXCL | O_RDWR, 0600);
  CHECK(own >= 0 && fstat(own, &st) == 0 && st.st_uid == kUser && st.st_gid == kGroup);
  CHECK(fchmod(own, 0640) == 0 && fchown(own, -1, kOther) == 0 && close(open("open/own", O_RDWR)) == 0);
  CHECK_ERRNO(fchown(own, 0, -1), EPERM);
  CHECK_ERRNO(link("open/own", "closed/new"), EACCES);
  CHECK(link("open/own", "open/linked") == 0 && unlink("open/linked") == 0);
  CHECK_ERRNO(fchown(own, -1, 0), EPERM);
  CHECK(mkdir("open/directory", 0700) == 0 && stat("open/directory", &st) == 0);
  CHECK(st.st_uid == kUser && st.st_gid == kGroup && (st.st_mode & 07777) == 0700);
  CHECK(close(open("open/directory/file", O_CREAT | O_RDWR, 0600)) == 0);
  CHECK(symlink("nowhere", "open/link") == 0 && lstat("open/link", &st) == 0 && st.st_uid == kUser);
  CHECK(mkfifo("open/fifo", 0600) == 0 && stat("open/fifo", &st) == 0 && st.st_uid == kUser && S_ISFIFO(st.st_mode));
  CHECK(close(open("below/file", O_CREAT | O_RDWR, 0600)) == 0);
  CHECK(stat("below/file", &st) == 0 && st.st_uid == kUser && st.st_gid == kOther);
  CHECK(close(open("sticky/own", O_CREAT | O_RDWR, 0600)) == 0);
  CHECK(rename("sticky/own", "sticky/renamed") == 0 && unlink("sticky/renamed") == 0);
  CHECK_ERRNO(rename("open/own", "sticky/roots"), EPERM);
  int named = open("open", O_TMPFILE | O_RDWR, 0600);
  if (named >= 0) CHECK(fstat(named, &st) == 0 && st.st_uid == kUser);
  struct sockaddr_un address = {AF_UNIX, "open/socket"};
  int s = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK(bind(s, (void*)&address, sizeof address) == 0 && stat("open/socket", &st) == 0 && st.st_uid == kUser);
  CHECK(utimensat(AT_FDCWD, "open/own", times, 0) == 0);
  CHECK(unlink("open/own") == 0 && rmdir("open/directory") == -1 && errno == ENOTEMPTY);
}

static void looks_at_files(void) {
  CHECK(mkdir("hidden", 0700) == 0 && mkdir("sticky", 0777) == 0 && chmod("sticky", 01777) == 0 && mkdir("open", 0777) == 0 && chmod("open", 0777) == 0);
  CHECK(close(open("hidden/file", O_CREAT | O_RDWR, 0666)) == 0 && close(open("sticky/roots", O_CREAT | O_RDWR, 0666)) == 0);
  CHECK(close(open("read", O_CREAT | O_RDWR, 0644)) == 0 && chmod("read", 0644) == 0);
  CHECK(close(open("group", O_CREAT | O_RDWR, 0640)) == 0 && chown("group", 0, kOther) == 0);
  CHECK(mkdir("below", 0777) == 0 && chown("below", 0, kOther) == 0 && chmod("below", 02777) == 0);
  int held = open("secret", O_RDWR);
  CHECK(held >= 0);
  become_user();
  umask(022);
  CHECK(write(held, "x", 1) == 1);  // what is open stays so
  CHECK_ERRNO(open("secret", O_RDONLY), EACCES);
  CHECK_ERRNO(truncate("secret", 0), EACCES);
  CHECK_ERRNO(open("hidden/file", O_RDONLY), EACCES);
  CHECK_ERRNO(chdir("hidden"), EACCES);
  CHECK_ERRNO(open("hidden", O_RDONLY), EACCES);
  CHECK_ERRNO(open("hidden/../read", O_RDONLY), EACCES);
  struct stat st;
  CHECK(stat("secret", &st) == 0 && st.st_uid == 0);
  CHECK_ERRNO(stat("hidden/file", &st), EACCES);
  CHECK(access("read", R_OK) == 0 && faccessat(AT_FDCWD, "read", R_OK, AT_EACCESS) == 0);
  CHECK_ERRNO(access("read", W_OK), EACCES);
  CHECK_ERRNO(open("read", O_RDWR), EACCES);
  CHECK_ERRNO(open("read", O_RDONLY | O_TRUNC), EACCES);
  CHECK(close(open("group", O_RDONLY)) == 0);
  CHECK_ERRNO(chmod("read", 0666), EPERM);
  CHECK_ERRNO(chown("read", kUser, -1), EPERM);
  CHECK_ERRNO(utimensat(AT_FDCWD, "read", NULL, 0), EACCES);
  struct timespec times[2] = {{1, 0}, {2, 0}};
  CHECK_ERRNO(utimensat(AT_FDCWD, "read", times, 0), EPERM);
  CHECK_ERRNO(unlink("hidden/file"), EACCES);
  CHECK_ERRNO(unlink("sticky/roots"), EPERM);
  CHECK_ERRNO(unlink("sticky/none"), ENOENT);
  CHECK_ERRNO(rename("sticky/roots", "open/roots"), EPERM);
  CHECK_ERRNO(mkdir("hidden/more", 0777), EACCES);
  CHECK_ERRNO(open("closed/new", O_CREAT | O_RDWR, 0666), EACCES);
  CHECK_ERRNO(mkdir("closed/new", 0777), EACCES);
  CHECK_ERRNO(symlink("x", "closed/new"), EACCES);
  CHECK_ERRNO(mkfifo("closed/new", 0666), EACCES);
  makes_files();
}

static void connects_to_socket(void) {
  struct sockaddr_un address = {AF_UNIX, "roots_socket"};
  int l = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK(bind(l, (void*)&address, sizeof address) == 0 && listen(l, 5) == 0 && chmod("roots_socket", 0600) == 0);
  become_user();
  int s = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK_ERRNO(connect(s, (void*)&address, sizeof address), EACCES);
}

static struct ucred peer_of(int s) {
  struct ucred peer;
  socklen_t length = sizeof peer;
  CHECK(getsockopt(s, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0);
  return peer;
}
// SO_PEERCRED: whose ids they were when the sockets were joined.
static void tells_the_peer(void) {
  struct sockaddr_un address = {AF_UNIX, "peers_socket"};
  int l = socket(AF_UNIX, SOCK_STREAM, 0), pair[2];
  CHECK(bind(l, (void*)&address, sizeof address) == 0 && chmod("peers_socket", 0666) == 0 && listen(l, 5) == 0);
  const pid_t parent = getpid();
  pid_t child = fork();
  if (child == 0) {
    become_user();
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(connect(s, (void*)&address, sizeof address) == 0);
    CHECK(peer_of(s).pid == parent && peer_of(s).uid == 0 && peer_of(s).gid == 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && peer_of(pair[0]).uid == kUser && peer_of(pair[1]).gid == kGroup);
    char byte;
    CHECK(read(s, &byte, 1) == 1);
    _exit(0);
  }
  int a = accept(l, NULL, NULL);
  CHECK(a >= 0);
  // In `ramet` on a host without unix_diag nobody knows whose it is, and then it is nobody's.
  const struct ucred peer = peer_of(a);
  CHECK((peer.pid == child && peer.uid == kUser && peer.gid == kGroup) || (peer.pid == 0 && peer.uid == 65534 && peer.gid == 65534));
  CHECK(write(a, "x", 1) == 1);
  ends_well(child);
  CHECK(unlink("peers_socket") == 0);
}

static void asks_others(void) {
  int ready[2];
  char byte;
  CHECK(pipe(ready) == 0);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    become_user();
    CHECK(write(ready[1], "x", 1) == 1);
    for (;;) pause();
  }
  CHECK(read(ready[0], &byte, 1) == 1);
  pid_t another = fork();
  if (another == 0) {
    const pid_t root = getppid();
    CHECK(setresuid(kOther, kOther, kOther) == 0);
    CHECK_ERRNO(kill(child, 0), EPERM);
    CHECK_ERRNO(kill(root, SIGKILL), EPERM);
    CHECK_ERRNO(syscall(SYS_tgkill, child, child, SIGTERM), EPERM);
    CHECK_ERRNO(kill(1 << 21, 0), ESRCH);
    CHECK(kill(child, SIGCONT) == 0);  // the same session
    CHECK_ERRNO(setpriority(PRIO_PROCESS, (id_t)child, 5), EPERM);
    struct rlimit limit;
    CHECK_ERRNO(prlimit(child, RLIMIT_NOFILE, NULL, &limit), EPERM);
    CHECK(setpriority(PRIO_PROCESS, 0, 5) == 0);
    CHECK_ERRNO(setpriority(PRIO_PROCESS, 0, 4), EACCES);
    CHECK_ERRNO(setpriority(PRIO_PROCESS, 0, -5), EACCES);
    CHECK(getrlimit(RLIMIT_CORE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max = 100;
    CHECK(setrlimit(RLIMIT_CORE, &limit) == 0);
    limit.rlim_max = 101;
    CHECK_ERRNO(setrlimit(RLIMIT_CORE, &limit), EPERM);
    CHECK(kill(0, 0) == 0);  // to itself at least
    fflush(stdout);
    _exit(0);
  }
  ends_well(another);
  CHECK(setpriority(PRIO_PROCESS, (id_t)child, 7) == 0 && getpriority(PRIO_PROCESS, (id_t)child) == 7);
  CHECK(getpriority(PRIO_USER, kUser) == 7);
  CHECK_ERRNO(getpriority(PRIO_USER, kUser + 5), ESRCH);
  siginfo_t info;
  CHECK(kill(child, SIGTERM) == 0 && waitid(P_PID, (id_t)child, &info, WEXITED) == 0);
  CHECK(info.si_uid == kUser && info.si_status == SIGTERM);
}

static void tells_who_sent(void) {
  sigset_t set;
  siginfo_t info;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
  const pid_t parent = getpid();
  pid_t child = fork();
  if (child == 0) {
    CHECK(setresuid(kOther, 0, 0) == 0);
    CHECK(kill(parent, SIGUSR1) == 0);
    _exit(0);
  }
  CHECK(sigwaitinfo(&set, &info) == SIGUSR1 && info.si_pid == child && info.si_uid == kOther);
  ends_well(child);
}

static void shares_memory(void) {
  int id = shmget(IPC_PRIVATE, 4096, 0600);
  CHECK(id >= 0);
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    become_user();
    CHECK(shmat(id, NULL, 0) == (void*)-1 && errno == EACCES);
    CHECK_ERRNO(shmctl(id, IPC_RMID, NULL), EPERM);
    int own = shmget(IPC_PRIVATE, 4096, 0600);
    struct shmid_ds ds;
    CHECK(own >= 0 && shmctl(own, IPC_STAT, &ds) == 0 && ds.shm_perm.uid == kUser && ds.shm_perm.gid == kGroup && shmctl(own, IPC_RMID, NULL) == 0);
    _exit(0);
  }
  ends_well(child);
  CHECK(shmctl(id, IPC_RMID, NULL) == 0);
}

static const char* self;
static void runs_a_program(void) {
  char user[32];
  snprintf(user, sizeof user, "%d", kUser);
  become_user();
  CHECK_ERRNO(execl("./program_of_root", "x", NULL), EACCES);
  execl(self, "ids", "ran", user, NULL);
  CHECK(!"exec");
}

// Root's priority may be raised inside, and lowered again.
static void is_nice(void) {
  CHECK(setpriority(PRIO_PROCESS, 0, 3) == 0 && getpriority(PRIO_PROCESS, 0) == 3);
  if (setpriority(PRIO_PROCESS, 0, -3) != 0) {
    CHECK(errno == EACCES);  // a root without CAP_SYS_NICE, as in a container
  } else {
    CHECK(getpriority(PRIO_PROCESS, 0) == -3 && setpriority(PRIO_PROCESS, 0, 0) == 0 && getpriority(PRIO_PROCESS, 0) == 0);
  }
}

static void* thread_uid(void* at) {
  *(uid_t*)at = (uid_t)syscall(SYS_getuid);
  return NULL;
}
static int go[2];
static void* waits(void* at) {
  char byte;
  CHECK(read(go[0], &byte, 1) == 1);
  return thread_uid(at);
}
// setuid(2) of the C library is that of all threads; the kernel's is one thread's.
static void has_threads(void) {
  pthread_t one, two;
  uid_t of_one = 1, of_two = 1;
  CHECK(pipe(go) == 0 && pthread_create(&one, NULL, waits, &of_one) == 0);
  CHECK(setuid(kUser) == 0 && write(go[1], "x", 1) == 1);
  CHECK(pthread_create(&two, NULL, thread_uid, &of_two) == 0);
  CHECK(pthread_join(one, NULL) == 0 && pthread_join(two, NULL) == 0 && of_one == kUser && of_two == kUser);
}

// Root becomes a user that keeps a capability; others stay who they are.
static void resumes(void) {
  const int root = getuid() == 0;
  struct __user_cap_data_struct before[2];
  const gid_t group = kOther;
  if (root) {
    CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0 && setgroups(1, &group) == 0);
    CHECK(setresgid(kGroup, kGroup + 1, kGroup + 2) == 0 && setresuid(kUser, kUser + 1, kUser + 2) == 0);
  }
  CHECK(setpriority(PRIO_PROCESS, 0, 3) == 0);
  memcpy(before, capabilities(), sizeof before);
  const uid_t user = getuid();
  char line[64];
  puts("before");
  fflush(stdout);
  CHECK(fgets(line, sizeof line, stdin));
  CHECK(getuid() == user && getpriority(PRIO_PROCESS, 0) == 3 && !memcmp(before, capabilities(), sizeof before));
  if (root) {
    uid_t u[3];
    gid_t g[3], groups[2];
    CHECK(getresuid(u, u + 1, u + 2) == 0 && u[0] == kUser && u[1] == kUser + 1 && u[2] == kUser + 2);
    CHECK(getresgid(g, g + 1, g + 2) == 0 && g[0] == kGroup && g[1] == kGroup + 1 && g[2] == kGroup + 2);
    CHECK(getgroups(2, groups) == 1 && groups[0] == kOther && prctl(PR_GET_KEEPCAPS) == 1);
    CHECK_ERRNO(setuid(0), EPERM);
  }
  puts("the same as before");
}

int main(int argc, char** argv) {
  if (argc == 3 && !strcmp(argv[1], "ran")) {
    const uid_t user = (uid_t)atoi(argv[2]);
    CHECK(getuid() == user && geteuid() == user && getgroups(0, NULL) == 2 && !capabilities()[0].permitted);
    puts("ran as that user");
    return 0;
  }
  if (argc == 2 && !strcmp(argv[1], "resumes")) {
    resumes();
    return 0;
  }
  CHECK(argc == 2 && chdir(argv[1]) == 0);
  self = "./program";
  if (getuid() != 0) {
    CHECK(getuid() == geteuid() && setuid(getuid()) == 0 && setresuid(-1, getuid(), getuid()) == 0);
    CHECK_ERRNO(setuid(0), EPERM);
    CHECK_ERRNO(setgid(0), EPERM);
    CHECK_ERRNO(setgroups(0, NULL), EPERM);
    CHECK(!capabilities()[0].effective);
    puts("an ordinary user");
    return 0;
  }
  CHECK(setgroups(0, NULL) == 0 && getgroups(0, NULL) == 0);
  umask(0);
  CHECK(chmod(".", 0777) == 0);
  int f = open("secret", O_CREAT | O_RDWR, 0600);
  CHECK(f >= 0 && mkdir("closed", 0755) == 0);
  // A copy of the program that others may run, and one that they may not.
  int from = open("/proc/self/exe", O_RDONLY), to = open("program", O_CREAT | O_WRONLY, 0755), roots = open("program_of_root", O_CREAT | O_WRONLY, 0700);
  CHECK(from >= 0 && to >= 0 && roots >= 0);
  char buffer[65536];
  for (ssize_t got; (got = read(from, buffer, sizeof buffer)) > 0;) CHECK(write(to, buffer, (size_t)got) == got && write(roots, buffer, (size_t)got) == got);
  CHECK(close(to) == 0 && close(roots) == 0);
  apart(gives_root_away);
  apart(goes_to_and_fro);
  apart(keeps_capabilities);
  apart(bounds_capabilities);
  apart(looks_at_files);
  apart(connects_to_socket);
  apart(tells_the_peer);
  apart(asks_others);
  apart(tells_who_sent);
  apart(shares_memory);
  apart(runs_a_program);
  apart(is_nice);
  apart(has_threads);
  CHECK(getuid() == 0 && has(CAP_CHOWN));
  CHECK(unlink("program") == 0 && unlink("program_of_root") == 0);
  const char* no_files[] = {"open/fifo", "open/link", "open/socket", "roots_socket"};  // what diff(1) cannot compare
  for (size_t i = 0; i < sizeof no_files / sizeof *no_files; ++i) CHECK(unlink(no_files[i]) == 0);
  puts("root");
  return 0;
}
