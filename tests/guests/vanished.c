// Memory that goes away under a system call: a shared mapping of a file that shrinks, before the call or at any moment of
// it, and one that may only be read. Calls end with EFAULT; a program that touches it itself gets its own SIGBUS.
//
//   vanished DIRECTORY shrunk|read_only    vanished DIRECTORY storm [ROUNDS]
//   vanished DIRECTORY outside   (somebody else is to shrink the file "vanished" there)
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

enum { kPage = 4096, kSize = 4 * kPage };
static int file;
static char* shared;  // all of the file

static void make_file(void) {
  file = open("vanished", O_RDWR | O_CREAT | O_TRUNC, 0600);
  CHECK(file >= 0 && ftruncate(file, kSize) == 0);
  shared = mmap(NULL, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  CHECK(shared != MAP_FAILED);
  memset(shared, 1, kSize);
}

static long futex(void* word, int op, uint32_t value, const void* timeout, void* word2, uint32_t value3) {
  return syscall(SYS_futex, word, op, value, timeout, word2, value3);
}

// --- calls that use what lies at `at` ---

// Whether a call may end so: with EFAULT and nothing else, or, where the memory comes and goes, as it likes.
static int always_gone;
static void ended(long result, int line) {
  if (!always_gone || (result == -1 && errno == EFAULT)) return;
  fprintf(stderr, "vanished.c:%d: ended with %ld, errno %d\n", line, result, errno);
  exit(1);
}
#define USE(call) (errno = 0, ended((long)(call), __LINE__))

static void read_there(char* at) {
  struct timespec none = {0};
  struct iovec two[2] = {{at, 3}, {at + 100, 5}};
  int pipes[2];
  CHECK(pipe2(pipes, O_NONBLOCK) == 0);
  USE(futex(at, FUTEX_WAIT, 0x02020202, &none, NULL, 0));
  USE(futex(at, FUTEX_WAIT_BITSET, 0x02020202, &none, NULL, ~0u));
  USE(write(pipes[1], at, 64));
  USE(writev(pipes[1], two, 2));
  USE(syscall(SYS_writev, pipes[1], at, 1));
  USE(pwrite(file, at, kPage, 0));
  USE(syscall(SYS_rt_sigprocmask, SIG_BLOCK, at, NULL, 8));
  USE(syscall(SYS_openat, AT_FDCWD, at, O_RDONLY));
  USE(syscall(SYS_newfstatat, AT_FDCWD, at, two, 0));
  USE(syscall(SYS_nanosleep, at, NULL));
  USE(syscall(SYS_ppoll, NULL, 0, at, NULL, 8));
  USE(syscall(SYS_ppoll, at, 1, &none, NULL, 8));
  close(pipes[0]), close(pipes[1]);
}

static void write_there(char* at) {
  struct iovec two[2] = {{at, 3}, {at + 100, 5}};
  int pipes[2];
  CHECK(pipe2(pipes, O_NONBLOCK) == 0 && write(pipes[1], "0123456789abcdef", 16) == 16);
  USE(read(pipes[0], at, 8));
  USE(readv(pipes[0], two, 2));
  USE(syscall(SYS_getcwd, at, kPage));
  USE(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, at, 8));
  USE(syscall(SYS_rt_sigaction, SIGUSR2, NULL, at, 8));
  USE(syscall(SYS_sigaltstack, NULL, at));
  USE(syscall(SYS_fstat, pipes[0], at));
  USE(syscall(SYS_sched_getaffinity, 0, 128, at));
  USE(syscall(SYS_getrandom, at, 64, 0));
  USE(syscall(SYS_getrusage, RUSAGE_SELF, at));
  USE(syscall(SYS_uname, at));
  USE(syscall(SYS_pipe2, at, 0));
  USE(syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, at));
  USE(futex(at, FUTEX_WAKE_OP, 1, (void*)1, at + 64, FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_EQ, 0)));
  close(pipes[0]), close(pipes[1]);
}

// --- what a thread leaves behind for the kernel to do when it ends ---

enum { kLocks = 300 };
struct leaving {
  char* locks;       // kLocks robust locks, 8 bytes apart
  char* tid;         // where its thread id is to be cleared
  char* taken_at;    // where the locks can be written
  int shrinks;       // the file shrinks when it has taken them
  volatile int id;   // its thread id, once it is about to end
};

static __thread sigjmp_buf before_store;
static void on_bus(int sig) {
  (void)sig;
  siglongjmp(before_store, 1);
}

// Takes the locks, as far as they are there, and ends holding them.
static void* leave(void* argument) {
  struct leaving* l = argument;
  struct robust_list entries[kLocks];  // in memory that stays: entry i leads to lock i
  struct robust_list_head head = {.list = {&entries[0]}, .futex_offset = l->locks - (char*)&entries[0]};
  for (int i = 0; i < kLocks; ++i) entries[i].next = i + 1 < kLocks ? &entries[i + 1] : &head.list;
  const uint32_t id = (uint32_t)syscall(SYS_gettid);
  if (sigsetjmp(before_store, 1) == 0)
    for (int i = 0; i < kLocks; ++i) *(volatile uint32_t*)(l->taken_at + 8 * i) = id | FUTEX_WAITERS;
  CHECK(syscall(SYS_set_robust_list, &head, sizeof head) == 0);
  syscall(SYS_set_tid_address, l->tid);
  if (l->shrinks) CHECK(ftruncate(file, kPage) == 0);
  l->id = (int)id;
  syscall(SYS_exit, 0);
  return NULL;
}

static void let_leave(char* locks, char* taken_at, int shrinks) {
  struct leaving l = {locks, locks + kPage - 8, taken_at, shrinks, 0};
  pthread_t thread;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 1 << 16);
  CHECK(pthread_create(&thread, &attributes, leave, &l) == 0);
  while (l.id == 0 || syscall(SYS_tgkill, getpid(), l.id, 0) == 0) sched_yield();  // nobody tells when it has ended
}

// --- the cases ---

static int status_of(int pid) {
  int status;
  CHECK(waitpid(pid, &status, 0) == pid);
  return status;
}
static void print_status(const char* what, int status) {
  if (WIFSIGNALED(status)) printf("%s: signal %d\n", what, WTERMSIG(status));
  else printf("%s: exit %d\n", what, WEXITSTATUS(status));
  fflush(stdout);
}
// What becomes of a process that does this.
static void in_child(const char* what, void (*act)(char*), char* at) {
  const int pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) act(at), _exit(0);
  print_status(what, status_of(pid));
}

static void store(char* at) { *(volatile char*)at = 1; }
static void load(char* at) { (void)*(volatile char*)at; }
static void nothing(int sig) { (void)sig; }
// A handler whose frame is to be written there.
static void handle_there(char* at) {
  const stack_t stack = {.ss_sp = at, .ss_size = 2 * kPage};
  const struct sigaction action = {.sa_handler = nothing, .sa_flags = SA_ONSTACK};
  CHECK(sigaltstack(&stack, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
  raise(SIGUSR1);
}
static void leave_there(char* at) {
  CHECK(signal(SIGBUS, on_bus) != SIG_ERR);
  let_leave(at, at, 0);
}
static void read_it(char* at) { always_gone = 1, read_there(at); }
static void write_it(char* at) { always_gone = 1, write_there(at); }

static void all_of_it(char* at) {
  in_child("reading by calls", read_it, at);
  in_child("writing by calls", write_it, at);
  in_child("a load", load, at);
  in_child("a store", store, at);
  in_child("a handler's frame", handle_there, at);
  in_child("leaving", leave_there, at);
}

// The file shrinks while the process is there that has touched all of it.
static void shrink_and_leave(char* at) {
  let_leave(at, at, 1);
  CHECK(ftruncate(file, kSize) == 0);
  CHECK(*at == 0);
}
static void case_shrunk(void) {
  make_file();
  in_child("leaving while it shrinks", shrink_and_leave, shared + kPage);
  CHECK(ftruncate(file, kPage) == 0);
  all_of_it(shared + kPage);
}
static void leave_read_only(char* at) {
  let_leave(at, shared, 0);
  CHECK((*(uint32_t*)at & FUTEX_WAITERS) && !(*(uint32_t*)at & FUTEX_OWNER_DIED));  // as it was taken
}
static void case_read_only(void) {
  make_file();
  const int only = open("vanished", O_RDONLY);
  char* at = mmap(NULL, kSize, PROT_READ, MAP_SHARED, only, 0);
  CHECK(only >= 0 && at != MAP_FAILED && *at == 1);
  CHECK_ERRNO(mprotect(at, kSize, PROT_READ | PROT_WRITE), EACCES);
  in_child("writing by calls", write_it, at);
  in_child("a store", store, at);
  in_child("a handler's frame", handle_there, at);
  CHECK(*at == 1);
  in_child("leaving", leave_read_only, at);
}

// Others shrink the file and make it grow again, all the time.
static volatile int stop;
static void* shrink(void* unused) {
  while (!stop) {
    CHECK(ftruncate(file, 0) == 0 && ftruncate(file, kSize) == 0);
  }
  return unused;
}
static void* use(void* rounds) {
  for (long i = 0; i < (long)rounds; ++i) {
    read_there(shared + kPage + 64), write_there(shared + 2 * kPage - 40);  // some of it on the next page
    let_leave(shared, shared, 0);
  }
  return NULL;
}
static void case_storm(long rounds) {
  const struct sigaction action = {.sa_handler = on_bus};
  make_file();
  CHECK(sigaction(SIGBUS, &action, NULL) == 0);
  pthread_t threads[3];
  CHECK(pthread_create(&threads[0], NULL, shrink, NULL) == 0);
  for (int i = 1; i < 3; ++i) CHECK(pthread_create(&threads[i], NULL, use, (void*)rounds) == 0);
  for (int i = 1; i < 3; ++i) CHECK(pthread_join(threads[i], NULL) == 0);
  stop = 1;
  CHECK(pthread_join(threads[0], NULL) == 0);
  puts("storm: over");
}

// Somebody who is no part of the program shrinks the file, after "mapped" and before the end of standard input.
static void case_outside(void) {
  make_file();
  puts("mapped"), fflush(stdout);
  CHECK(getchar() == EOF);
  CHECK(signal(SIGBUS, on_bus) != SIG_ERR);
  void (*const accesses[])(char*) = {load, store};
  for (volatile int i = 0; i < 2; ++i) {
    if (sigsetjmp(before_store, 1) != 0) continue;
    accesses[i](shared + (i + 1) * kPage);
    CHECK(!"a page that the file has lost can be reached");
  }
  puts("SIGBUS");
}

int main(int argc, char** argv) {
  CHECK(argc >= 3 && chdir(argv[1]) == 0);
  if (!strcmp(argv[2], "shrunk")) case_shrunk();
  else if (!strcmp(argv[2], "read_only")) case_read_only();
  else if (!strcmp(argv[2], "storm")) case_storm(argc > 3 ? atol(argv[3]) : 100);
  else if (!strcmp(argv[2], "outside")) case_outside();
  else CHECK(!"a known case");
  CHECK(unlink("vanished") == 0);
  return 0;
}
