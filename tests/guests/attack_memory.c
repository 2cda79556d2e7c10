// Attackers that map whatever descriptors they have, until there is no room, and keep what they have for after a fork or an exec.
#define _GNU_SOURCE
#include "attack_cases.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { kWindow = 32 << 20, kDescriptors = 64 };
#define WINDOW ((unsigned char*)NOWHERE)

// How often what was written after the attacker was forked is in what it can see.
static unsigned secrets(const uint64_t* memory, size_t words) {
  unsigned hits = 0;
  for (size_t i = 0; i + kSecretWords <= words; ++i) {
    if (memory[i] != secret(0)) continue;
    unsigned same = 1;
    while (same < kSecretWords && memory[i + same] == secret(same)) ++same;
    hits += same == kSecretWords;
  }
  return hits;
}
// The same of the window, which may have pages that its file does not have.
__attribute__((noinline)) static unsigned secrets_in_window(void) {
  return sigsetjmp(back, 1) == 0 ? secrets((const uint64_t*)WINDOW, kWindow / 8) : 0;
}
static void map_descriptors(void) {
  unsigned readable = 0, writable = 0;
  for (uint64_t n = 0; n < kDescriptors; ++n) {
    if (stub_call(SYS_mmap, (uint64_t)WINDOW, kWindow, PROT_READ, MAP_SHARED | MAP_FIXED, n, 0) != (long)WINDOW) continue;
    ++readable;
    CHECK(secrets_in_window() == 0);
    if (stub_call(SYS_mmap, (uint64_t)WINDOW, kWindow, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, n, 0) == (long)WINDOW) ++writable;
    else CHECK(stub_call(SYS_mprotect, (uint64_t)WINDOW, kWindow, PROT_READ | PROT_WRITE) < 0);
  }
  CHECK(readable > 1 && writable >= 1 && writable < readable);  // its own, and the layer that it inherited
  for (uint64_t n = 3; n < kDescriptors; ++n) {
    (void)stub_call(SYS_ftruncate, n, 0);
    (void)stub_call(SYS_fallocate, n, 3 /* punch a hole */, 0, kWindow);
    (void)stub_call(SYS_fcntl, n, F_ADD_SEALS, F_SEAL_WRITE);
  }
  shared->found[0] = readable, shared->found[1] = writable;
}
// Whatever it can write is full of nonsense afterwards; that includes itself.
static void overwrite_descriptors(void) {
  shared->progress = 1;
  for (uint64_t n = 0; n < kDescriptors; ++n) {
    if (stub_call(SYS_mmap, (uint64_t)WINDOW, kWindow, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, n, 0) != (long)WINDOW) continue;
    memset(WINDOW, 0xee, kWindow);
  }
}
void descriptors(void) {
  CHECK(attempt(map_descriptors, 0) == 0);
  (void)attempt(overwrite_descriptors, 5);
}

// --- filling ---

static void fill_mappings(void) {
  enum { kCommands = 70000 };
  const size_t bytes = TOLD_COMMANDS + (size_t)kCommands * 64, mapped = (bytes + kPage - 1) & -(size_t)kPage;
  unsigned char* memory = mmap(NULL, mapped + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED && munmap(memory + mapped, kPage) == 0);
  unsigned char* told = memory + mapped - bytes;
  uint64_t descriptor = 0;  // one that can be mapped
  while (stub_call(SYS_mmap, (uint64_t)WINDOW, kPage, PROT_READ, MAP_SHARED | MAP_FIXED, descriptor, 0) < 0) CHECK(++descriptor < kDescriptors);
  for (uint64_t i = 0; i < kCommands; ++i) {
    const uint64_t command[8] = {SYS_mmap, (uint64_t)WINDOW + i * 2 * kPage, kPage, PROT_READ, MAP_SHARED | MAP_FIXED, descriptor, 0, 0};
    memcpy(told + TOLD_COMMANDS + i * 64, command, sizeof command);
  }
  stub_list(told);
  // No room for another mapping; what it needs for itself comes all the same.
  for (int i = 0; i < 300; ++i) {
    volatile char* p = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    *p = 1;
  }
}
void full_of_mappings(void) { CHECK(attempt(fill_mappings, 0) == 0); }

// More files than its process can have descriptors of.
static void fill_descriptors(void) {
  char name[64];
  for (int i = 0; i < 1200; ++i) {
    snprintf(name, sizeof name, "%s/attack-%d", argument, i);
    const int fd = open(name, O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0 && ftruncate(fd, kPage) == 0);
    volatile int* p = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED);
    *p = i;
    CHECK(close(fd) == 0 && unlink(name) == 0);
  }
}
void full_of_descriptors(void) { CHECK(attempt(fill_descriptors, 0) == 0); }

// --- what comes after ---

// Keeps mappings of all that it can write, where nobody looks for them. How many.
static unsigned keep_mappings(void) {
  unsigned kept = 0;
  for (uint64_t n = 0; n < kDescriptors; ++n) {
    const uint64_t at = (uint64_t)WINDOW + kept * (uint64_t)kWindow;
    if (stub_call(SYS_mmap, at, kWindow, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, n, 0) == (long)at) ++kept;
  }
  CHECK(kept > 0);
  return kept;
}
__attribute__((noinline)) static unsigned damage_at(uint64_t at, uint64_t word) {
  volatile unsigned times = 0;
  if (sigsetjmp(back, 1) != 0) return times;  // it is not mapped, or the file ends there
  for (volatile uint64_t* p = (uint64_t*)at; p < (uint64_t*)(at + kWindow); ++p)
    if (*p == word) *p = 0, ++times;
  return times;
}
// In what it kept, or can map by now, a word that stands for the secret is changed. How often.
static unsigned damage(unsigned kept, uint64_t word) {
  unsigned times = 0;
  for (unsigned k = 0; k < kept + kDescriptors; ++k) {
    uint64_t at = (uint64_t)WINDOW + k * (uint64_t)kWindow;
    if (k >= kept) {
      at = (uint64_t)WINDOW + kept * (uint64_t)kWindow;
      if (stub_call(SYS_mmap, at, kWindow, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, k - kept, 0) != (long)at) continue;
    }
    times += damage_at(at, word);
  }
  return times;
}
static void fork_when_taken_over(void) {
  const uint64_t word = secret(1000);
  volatile uint64_t* mine = (uint64_t*)(own + kPrivate);
  *mine = word;
  const unsigned kept = keep_mappings();
  shared->progress = 0;
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    while (shared->progress == 0) sched_yield();
    shared->found[1] = *mine == word ? 1 : 2;
    _exit(0);
  }
  shared->found[0] = damage(kept, word);
  shared->progress = 1;
  CHECK(waitpid(child, NULL, 0) == child);
}
void before_fork(void) {
  (void)attempt(fork_when_taken_over, 0);
  CHECK(shared->found[1] == 1);
}

static void exec_when_taken_over(void) {
  for (unsigned i = 0; i < kSecretWords; ++i) ((volatile uint64_t*)(own + kPrivate))[i] = secret(i);
  (void)keep_mappings();
  execl("/proc/self/exe", "attack", "after_exec", argument, NULL);
  CHECK(!"it runs itself");
}
void before_exec(void) { CHECK(attempt(exec_when_taken_over, 0) == 0); }
// What exec_when_taken_over() runs.
int after_exec(void) {
  take_over();
  if (sigsetjmp(back, 1) == 0) {
    (void)*(volatile unsigned char*)WINDOW;
    CHECK(!"nothing is mapped there any more");
  }
  for (uint64_t n = 0; n < kDescriptors; ++n) {
    if (stub_call(SYS_mmap, (uint64_t)WINDOW, kWindow, PROT_READ, MAP_SHARED | MAP_FIXED, n, 0) != (long)WINDOW) continue;
    CHECK(secrets_in_window() == 0);
  }
  return 0;
}
