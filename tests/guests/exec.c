// execve, vfork and posix_spawn: `exec DIRECTORY`, which runs itself again and again; `exec say ...` is what it runs.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

extern char** environ;
static const char* self = "/proc/self/exe";

// --- what is run ---

static void show_descriptors(void) {
  printf("open:");
  for (int fd = 15; fd < 30; ++fd)
    if (fcntl(fd, F_GETFD) >= 0) printf(" %d", fd);
  puts("");
}

static int say(int count, char** words) {
  if (!strcmp(words[2], "arguments")) {
    for (int i = 3; i < count; ++i) printf("argument <%s>\n", words[i]);
    for (char** e = environ; *e; ++e) printf("environment <%s>\n", *e);
  } else if (!strcmp(words[2], "descriptors")) {
    show_descriptors();
  } else if (!strcmp(words[2], "signals")) {
    struct sigaction action;
    sigset_t set;
    sigaction(SIGUSR1, NULL, &action);
    printf("handled: %d", action.sa_handler != SIG_DFL);
    sigaction(SIGUSR2, NULL, &action);
    printf(", ignored: %d", action.sa_handler == SIG_IGN);
    sigprocmask(SIG_BLOCK, NULL, &set);
    printf(", blocked: %d", sigismember(&set, SIGHUP));
    sigpending(&set);
    printf(", pending: %d", sigismember(&set, SIGHUP));
    stack_t stack;
    sigaltstack(NULL, &stack);
    printf(", stack: %d\n", !(stack.ss_flags & SS_DISABLE));
    struct itimerval left;
    getitimer(ITIMER_REAL, &left);
    printf("alarm: %d\n", left.it_value.tv_sec > 0);
  } else if (!strcmp(words[2], "pid")) {
    char name[17] = {0};
    CHECK(pthread_getname_np(pthread_self(), name, sizeof name) == 0);
    const int leader = syscall(SYS_gettid) == getpid();
    printf("the same process: %d, its leader: %d, name %s\n", atoi(words[3]) == getpid(), leader, name);
  } else if (!strcmp(words[2], "exit")) {
    return atoi(words[3]);
  }
  return 0;
}

// --- running it ---

static int status_of(pid_t pid) {
  int status = -1;
  CHECK(waitpid(pid, &status, 0) == pid);
  return status;
}

// Runs it in a child, whose status must be 0.
static void run(char* const words[], char* const variables[]) {
  fflush(stdout);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    execve(self, words, variables);
    perror("execve");
    _exit(99);
  }
  CHECK(status_of(pid) == 0);
}

static void handler(int sig) { (void)sig; }

static void state(void) {
  run((char*[]){"exec", "say", "arguments", "one", "two words", "", NULL}, (char*[]){"A=1", "EMPTY=", NULL});
  run((char*[]){"exec", "say", "arguments", NULL}, NULL);
  char* long_one = malloc(100001);
  memset(long_one, 'x', 100000);
  long_one[100000] = 0;
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    int out = open("/dev/null", O_WRONLY);
    dup2(out, 1);
    execve(self, (char*[]){"exec", "say", "arguments", long_one, long_one, NULL}, environ);
    _exit(99);
  }
  CHECK(status_of(pid) == 0);

  int kept = open("/dev/null", O_RDONLY), closed = open("/dev/null", O_RDONLY | O_CLOEXEC);
  CHECK(dup2(kept, 20) == 20 && dup3(closed, 21, O_CLOEXEC) == 21 && fcntl(20, F_SETFD, 0) == 0);
  close(kept);
  run((char*[]){"exec", "say", "descriptors", NULL}, environ);
  close(closed), close(20), close(21);

  fflush(stdout);
  pid = fork();
  if (pid == 0) {
    static char stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alternate, NULL);
    signal(SIGUSR1, handler);
    signal(SIGUSR2, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGHUP);
    alarm(1000);
    execve(self, (char*[]){"exec", "say", "signals", NULL}, environ);
    _exit(99);
  }
  CHECK(status_of(pid) == 0);
}

static char pid_text[20];
static void* exec_from_thread(void* unused) {
  (void)unused;
  execve(self, (char*[]){"exec", "say", "pid", pid_text, NULL}, environ);
  _exit(99);
}
static void* wait_for_ever(void* unused) {
  for (;;) pause();
  return unused;
}

static void threads(void) {
  for (int from_thread = 0; from_thread < 2; ++from_thread) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
      snprintf(pid_text, sizeof pid_text, "%d", getpid());
      pthread_t t;
      for (int i = 0; i < 4; ++i) CHECK(pthread_create(&t, NULL, wait_for_ever, NULL) == 0);
      if (!from_thread) exec_from_thread(NULL);
      CHECK(pthread_create(&t, NULL, exec_from_thread, NULL) == 0);
      wait_for_ever(NULL);
    }
    CHECK(status_of(pid) == 0);
  }
}

static void put_file(const char* name, const char* text, mode_t mode) {
  int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0 && chmod(name, mode) == 0);
}

// A failed execve leaves everything as it was.
static void failures(const char* directory) {
  char* words[] = {"x", NULL};
  CHECK(chdir(directory) == 0);
  put_file("plain", "#!/bin/true\n", 0644);
  put_file("garbage", "this is no program", 0755);
  put_file("empty", "", 0755);
  put_file("nowhere", "#!/no/such/interpreter\n", 0755);
  put_file("nothing", "#!\n", 0755);
  CHECK_ERRNO(execve("missing", words, environ), ENOENT);
  CHECK_ERRNO(execve("", words, environ), ENOENT);
  CHECK_ERRNO(execve("plain/x", words, environ), ENOTDIR);
  CHECK_ERRNO(execve("plain", words, environ), EACCES);
  CHECK_ERRNO(execve(directory, words, environ), EACCES);
  CHECK_ERRNO(execve("garbage", words, environ), ENOEXEC);
  CHECK_ERRNO(execve("empty", words, environ), ENOEXEC);
  CHECK_ERRNO(execve("nowhere", words, environ), ENOENT);
  CHECK_ERRNO(execve("nothing", words, environ), ENOEXEC);
  CHECK_ERRNO(execve(wild_address, words, environ), EFAULT);
  CHECK_ERRNO(execve(self, wild_address, environ), EFAULT);
  CHECK_ERRNO(execve(self, (char*[]){wild_address, NULL}, environ), EFAULT);
  CHECK_ERRNO(execve(self, words, (char*[]){wild_address, NULL}), EFAULT);
  size_t large = 200000;
  char* text = malloc(large + 1);
  memset(text, 'y', large);
  text[large] = 0;
  CHECK_ERRNO(execve(self, (char*[]){"x", text, NULL}, environ), E2BIG);  // one string: 128 KiB
  text[100000] = 0;
  char** many = calloc(1000, sizeof *many);
  for (int i = 0; i < 900; ++i) many[i] = text;
  CHECK_ERRNO(execve(self, many, environ), E2BIG);
  CHECK_ERRNO(syscall(SYS_execveat, AT_FDCWD, "", words, environ, 0), ENOENT);
  CHECK_ERRNO(syscall(SYS_execveat, -5, "x", words, environ, 0), EBADF);
  CHECK_ERRNO(syscall(SYS_execveat, AT_FDCWD, self, words, environ, 0x40000000), EINVAL);
  puts("failures");
  int fd = open(self, O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    syscall(SYS_execveat, fd, "", (char*[]){"exec", "say", "exit", "21", NULL}, environ, AT_EMPTY_PATH);
    _exit(99);
  }
  CHECK(status_of(pid) == 21 << 8);
  close(fd);
  puts("by a descriptor");
}

static void scripts(const char* program, const char* directory) {
  CHECK(chdir(directory) == 0);
  char text[5000];
  snprintf(text, sizeof text, "#! %s  say \n", program);
  put_file("arguments", text, 0755);
  snprintf(text, sizeof text, "#!%s/arguments\n", directory);
  put_file("second", text, 0755);
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    // "program" "say" "arguments": the script's name is the word that says what to do.
    execve("arguments", (char*[]){"ignored", "a", "b", NULL}, (char*[]){NULL});
    _exit(99);
  }
  CHECK(status_of(pid) == 0);
  pid = fork();
  if (pid == 0) {
    execve("./second", (char*[]){"ignored", "a", NULL}, (char*[]){NULL});
    _exit(99);
  }
  CHECK(status_of(pid) == 0);
}

// --- without copying memory ---

static volatile int written_by_child;

static void spawning(void) {
  fflush(stdout);
  pid_t pid = vfork();
  CHECK(pid >= 0);
  if (pid == 0) {
    written_by_child = 5;  // the parent's memory
    _exit(7);
  }
  CHECK(written_by_child == 5 && status_of(pid) == 7 << 8);
  pid = vfork();
  if (pid == 0) {
    execve(self, (char*[]){"exec", "say", "exit", "8", NULL}, environ);
    _exit(99);
  }
  CHECK(status_of(pid) == 8 << 8);
  pid = vfork();
  if (pid == 0) {
    execve("/no/such/program", (char*[]){"x", NULL}, environ);
    written_by_child = errno;
    _exit(9);
  }
  CHECK(written_by_child == ENOENT && status_of(pid) == 9 << 8);
  puts("vfork");

  for (int i = 0; i < 10; ++i) {
    char number[12];
    snprintf(number, sizeof number, "%d", i);
    CHECK(posix_spawn(&pid, self, NULL, NULL, (char*[]){"exec", "say", "exit", number, NULL}, environ) == 0);
    CHECK(status_of(pid) == i << 8);
  }
  CHECK(posix_spawn(&pid, "/no/such/program", NULL, NULL, (char*[]){"x", NULL}, environ) == ENOENT);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  int out[2];
  CHECK(pipe2(out, O_CLOEXEC) == 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
  char* spawned[] = {"exec", "say", "arguments", "spawned", NULL};
  CHECK(posix_spawn(&pid, self, &actions, &attributes, spawned, (char*[]){"S=1", NULL}) == 0);
  close(out[1]);
  char text[1000];
  size_t length = 0;
  for (ssize_t n; (n = read(out[0], text + length, sizeof text - length)) > 0;) length += (size_t)n;
  CHECK(getpgid(pid) == pid && status_of(pid) == 0);
  printf("%.*s", (int)length, text);
  close(out[0]);
  puts("posix_spawn");
}

int main(int count, char** words) {
  if (count > 2 && !strcmp(words[1], "say")) {
    // A script's name comes with its path.
    const char* slash = strrchr(words[2], '/');
    if (slash) words[2] = (char*)slash + 1;
    return say(count, words);
  }
  CHECK(count == 2);
  state();
  threads();
  failures(words[1]);
  scripts(words[0], words[1]);
  spawning();
  return 0;
}
