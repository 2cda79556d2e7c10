// A guest that takes its own host process over and attacks from there: attack CASE DIRECTORY [ARGUMENT], on the process machine
// only. Attackers are children; their parent and a bystander, whose memory they inherited, look afterwards at every byte
// of theirs, and the bystander goes on all the time. The attacks are in attack_*.c.
#define _GNU_SOURCE
#include "attack_cases.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/wait.h>

enum { kInherited = 2 << 20 };

struct shared* shared;
const char* argument;
unsigned step = 1;
unsigned char* own;
unsigned attempts, ended;
int any_status;
static unsigned char* inherited;
static unsigned signalled, broken;

static unsigned char pattern(size_t i, unsigned salt) { return (unsigned char)((i * 2654435761u + salt) >> 11); }
static void fill(unsigned char* memory, size_t bytes, unsigned salt) {
  for (size_t i = 0; i < bytes; ++i) memory[i] = pattern(i, salt);
}
static int holds(const unsigned char* memory, size_t bytes, unsigned salt) {
  for (size_t i = 0; i < bytes; ++i)
    if (memory[i] != pattern(i, salt)) return 0;
  return 1;
}

// --- the others ---

static pid_t start_bystander(void) {
  const pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid) return pid;
  unsigned char* memory = malloc(kPrivate);
  fill(memory, kPrivate, 77);
  while (!shared->stop) {
    // Memory and system calls: what a stalled family could not do.
    memory[shared->steps % kPrivate] = pattern(shared->steps % kPrivate, 77);
    if (shared->steps % 64 == 0) CHECK(getppid() > 0);
    if (shared->steps % 4096 == 0) usleep(1000);
    ++shared->steps;
  }
  CHECK(holds(inherited, kInherited, 1));
  CHECK(holds(memory, kPrivate, 77));
  _exit(0);
}

void look(void) {
  const uint64_t before = shared->steps;
  while (shared->steps < before + 100) sched_yield();
  CHECK(holds(inherited, kInherited, 1));
  CHECK(holds(own, kPrivate, 2));
}

static pid_t start_attacker(void (*attack)(void)) {
  ++attempts;
  shared->ready = 0;
  const pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid) return pid;
  while (!shared->ready) sched_yield();
  take_over();
  attack();
  _exit(0);
}

static void look_after(int status) {
  look();
  if (WIFEXITED(status)) {
    CHECK(any_status || WEXITSTATUS(status) == 0);
    ++ended;
  } else if (WTERMSIG(status) == SIGKILL) {
    ++broken;
  } else {
    ++signalled;
  }
}

int attempt(void (*attack)(void), unsigned seconds) {
  const pid_t pid = start_attacker(attack);
  for (unsigned i = 0; i < kSecretWords; ++i) ((volatile uint64_t*)(own + kPrivate))[i] = secret(i);
  shared->ready = 1;
  int status;
  for (unsigned i = 0; waitpid(pid, &status, seconds ? WNOHANG : 0) == 0; ++i) {
    usleep(100000);
    if (i >= 10 * seconds) {
      kill(pid, SIGKILL);
      seconds = 0;
    }
  }
  memset(own + kPrivate, 0, kSecretWords * 8);
  look_after(status);
  return status;
}

void attempt_all(int (*next)(void), void (*attack)(void), unsigned seconds) {
  enum { kTogether = 8, kLooksASecond = 50 };
  struct {
    pid_t pid;  // 0: none
    unsigned looks;
  } attackers[kTogether] = {0};
  unsigned running = 0;
  int more = 1;
  do {
    for (unsigned i = 0; i < kTogether; ++i) {
      if (attackers[i].pid == 0) {
        if (!more || !(more = next())) continue;
        attackers[i].pid = start_attacker(attack);
        attackers[i].looks = 0;
        shared->ready = 1;
        ++running;
      }
      int status;
      const pid_t pid = waitpid(attackers[i].pid, &status, WNOHANG);
      CHECK(pid >= 0);
      if (pid == 0) {
        if (++attackers[i].looks == seconds * kLooksASecond) kill(attackers[i].pid, SIGKILL);
        continue;
      }
      attackers[i].pid = 0;
      --running;
      look_after(status);
    }
    usleep(1000000 / kLooksASecond);
  } while (more || running > 0);
}

// Whoever looks from outside removes this file, when it has looked.
static void meet(const char* name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", argument, name);
  const int fd = open(path, O_CREAT | O_WRONLY, 0600);
  CHECK(fd >= 0 && close(fd) == 0);
  while (access(path, F_OK) == 0) usleep(10000);
}

static void nothing(void) {}
static void three_forks(void) {
  for (int i = 0; i < 3; ++i) (void)attempt(nothing, 0);
}

int main(int argc, char** argv) {
  static const struct {
    const char* name;
    void (*run)(void);
  } cases[] = {{"calls", simple_calls}, {"hardened_calls", hardened_calls}, {"files", files}, {"jumps", jumps}, {"frames", frames}, {"never_answers", never_answers},
               {"contexts", contexts}, {"hidden_answers", hidden_answers}, {"descriptors", descriptors}, {"full_of_mappings", full_of_mappings},
               {"full_of_descriptors", full_of_descriptors}, {"ends", ends}, {"stops", stops}, {"signal_stack", signal_stack},
               {"before_fork", before_fork}, {"before_exec", before_exec}};
  CHECK(argc >= 3);  // a case and a directory
  argument = argv[2];
  if (argc > 3) step = (unsigned)atoi(argv[3]);
  if (strcmp(argv[1], "after_exec") == 0) return after_exec();
  shared = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  inherited = malloc(kInherited);
  own = malloc(kPrivate + kPage);
  own += -(uint64_t)own % 8;
  CHECK(shared != MAP_FAILED && inherited && own);
  fill(inherited, kInherited, 1);
  const pid_t bystander = start_bystander();
  fill(own, kPrivate, 2);
  three_forks();  // as warm as it gets
  attempts = ended = 0;
  meet("before");
  for (unsigned i = 0; i < sizeof cases / sizeof *cases; ++i)
    if (strcmp(cases[i].name, argv[1]) == 0) cases[i].run();
  isa_case(argv[1]);
  CHECK(attempts > 0);
  look();
  printf("%s: %u attempts, %u ended, %u by signals, %u broken; %u tried, found", argv[1], attempts, ended, signalled, broken, shared->progress);
  for (unsigned i = 0; i < 4; ++i) printf(" %lu", (unsigned long)shared->found[i]);
  three_forks();  // a fork is when layers of processes that have ended are let go
  meet("after");
  shared->stop = 1;
  int status;
  CHECK(waitpid(bystander, &status, 0) == bystander && status == 0);
  printf("\nthe others: unchanged\n");
  return 0;
}
