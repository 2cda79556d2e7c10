// System V shared memory: shmget, shmat, shmdt, shmctl; across fork and execve, and with arguments that make no sense.
#define _GNU_SOURCE
#include <limits.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { kPage = 4096, kSize = 5 * kPage + 1, kPages = 6 };

static struct shmid_ds state(int id) {
  struct shmid_ds s;
  CHECK(shmctl(id, IPC_STAT, &s) == 0);
  return s;
}
static int segment(void) {
  const int id = shmget(IPC_PRIVATE, kSize, IPC_CREAT | 0600);
  CHECK(id >= 0);
  return id;
}
static char* attach(int id, void* at, int flags) {
  char* p = shmat(id, at, flags);
  CHECK(p != (void*)-1);
  return p;
}
static void expect_status(int status) {
  int got;
  CHECK(wait(&got) > 0 && WIFEXITED(got) && WEXITSTATUS(got) == status);
}

static void one_process(void) {
  const int id = segment();
  struct shmid_ds s = state(id);
  CHECK(s.shm_segsz == kSize && s.shm_nattch == 0 && s.shm_cpid == getpid() && s.shm_lpid == 0 && s.shm_atime == 0);
  CHECK(s.shm_perm.mode == 0600 && s.shm_perm.uid == geteuid() && s.shm_perm.cgid == getegid() && s.shm_ctime > 0);
  char* p = attach(id, NULL, 0);
  char* q = attach(id, NULL, SHM_RDONLY);
  for (int i = 0; i < kPages; ++i) p[i * kPage] = (char)(i + 1);
  for (int i = 0; i < kPages; ++i) CHECK(q[i * kPage] == i + 1);
  s = state(id);
  CHECK(s.shm_nattch == 2 && s.shm_lpid == getpid() && s.shm_atime > 0 && s.shm_dtime == 0);
  CHECK_ERRNO(mprotect(q, kPage, PROT_READ | PROT_WRITE), EACCES);
  CHECK(shmdt(q) == 0 && state(id).shm_nattch == 1 && state(id).shm_dtime > 0);
  CHECK_ERRNO(shmdt(q), EINVAL);
  // What was unmapped meanwhile stays so, and the rest goes with one call.
  CHECK(munmap(p + kPage, kPage) == 0 && mprotect(p + 3 * kPage, kPage, PROT_READ) == 0);
  CHECK(state(id).shm_nattch == 4);  // as Linux counts: mappings
  char* other = mmap(p + kPage, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  CHECK(shmdt(p) == 0 && state(id).shm_nattch == 0);
  CHECK(*other == 0 && munmap(other, kPage) == 0);
  // The contents wait for the next.
  p = attach(id, NULL, 0);
  for (int i = 0; i < kPages; ++i) CHECK(p[i * kPage] == i + 1);
  CHECK(shmctl(id, IPC_RMID, NULL) == 0 && shmdt(p) == 0);
  CHECK_ERRNO(shmctl(id, IPC_STAT, &s), EINVAL);
  puts("attached, detached, removed");
}

// Where addresses end that a program can map: another on each architecture.
static uintptr_t end_of_addresses(void) {
  uintptr_t mapped = 1u << 20, beyond = 1ul << 55;
  while (beyond - mapped > kPage) {
    const uintptr_t middle = (mapped + (beyond - mapped) / 2) & ~(kPage - 1ul);
    char* at = mmap((void*)middle, kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (at != MAP_FAILED) CHECK(munmap(at, kPage) == 0);
    if (at == (char*)middle || (at == MAP_FAILED && errno == EEXIST)) mapped = middle;
    else beyond = middle;
  }
  return beyond;
}

static void addresses(void) {
  const int id = segment();
  char* place = mmap(NULL, 16 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(place != MAP_FAILED);
  memset(place, 7, 16 * kPage);
  CHECK_ERRNO((intptr_t)shmat(id, place + kPage, 0), EINVAL);          // something is there
  CHECK_ERRNO((intptr_t)shmat(id, place + kPage + 1, SHM_REMAP), EINVAL);
  CHECK_ERRNO((intptr_t)shmat(id, NULL, SHM_REMAP), EINVAL);
  CHECK(attach(id, place + kPage + 1, SHM_REMAP | SHM_RND) == place + kPage);
  CHECK(place[0] == 7 && place[kPage] == 0 && place[(kPages + 1) * kPage] == 7);
  CHECK_ERRNO(shmdt(place + 2 * kPage), EINVAL);
  CHECK_ERRNO(shmdt(place + kPage + 1), EINVAL);
  CHECK_ERRNO(shmdt(place), EINVAL);
  CHECK(shmdt(place + kPage) == 0);
  CHECK(attach(id, place + kPage, 0) == place + kPage && shmdt(place + kPage) == 0);
  CHECK((intptr_t)shmat(id, (void*)(UINTPTR_MAX & ~4095ul), 0) == -1);
  const uintptr_t end = end_of_addresses();
  CHECK((intptr_t)shmat(id, (void*)end, 0) == -1);
  CHECK((intptr_t)shmat(id, (void*)(end - kPage), SHM_REMAP) == -1);  // its end would be beyond
  CHECK(state(id).shm_nattch == 0 && shmctl(id, IPC_RMID, NULL) == 0);
  CHECK(munmap(place, 16 * kPage) == 0);
  puts("addresses");
}

static void processes(const char* self) {
  const int id = segment();
  _Atomic int* p = (_Atomic int*)attach(id, NULL, 0);
  enum { kChildren = 4, kRounds = 10000 };
  for (int i = 0; i < kChildren; ++i) {
    if (fork() == 0) {
      for (int k = 0; k < kRounds; ++k) atomic_fetch_add(p, 1);
      _exit(0);
    }
  }
  for (int i = 0; i < kChildren; ++i) expect_status(0);
  CHECK(*p == kChildren * kRounds && state(id).shm_nattch == 1);
  int go[2];
  CHECK(pipe(go) == 0);
  if (fork() == 0) {
    char byte;
    CHECK(read(go[0], &byte, 1) == 1 && state(id).shm_nattch == 2);
    CHECK(shmctl(id, IPC_RMID, NULL) == 0);  // while both have it
    struct shmid_ds s = state(id);
    CHECK((s.shm_perm.mode & SHM_DEST) && s.shm_perm.__key == IPC_PRIVATE);
    CHECK(shmdt((void*)p) == 0);
    _exit(3);
  }
  CHECK(write(go[1], "x", 1) == 1);
  expect_status(3);
  char* again = attach(id, NULL, 0);  // it goes with its last user
  CHECK(*(int*)again == kChildren * kRounds && state(id).shm_nattch == 2);
  CHECK(shmdt(again) == 0 && shmdt((void*)p) == 0);
  CHECK_ERRNO((intptr_t)shmat(id, NULL, 0), EINVAL);
  // execve(2) detaches; an id is good in any process.
  const int next = segment();
  strcpy(attach(next, NULL, 0), "left here");
  if (fork() == 0) {
    char number[16];
    snprintf(number, sizeof number, "%d", next);
    execl(self, self, number, NULL);
    _exit(99);
  }
  expect_status(5);
  CHECK(state(next).shm_nattch == 1 && shmctl(next, IPC_RMID, NULL) == 0);
  puts("processes");
}

static void keys(void) {
  const key_t key = 0x52414d00 + (getpid() & 0xff);
  const int id = shmget(key, kSize, IPC_CREAT | IPC_EXCL | 0640);
  CHECK(id >= 0 && shmget(key, 0, 0) == id && shmget(key, kSize, IPC_CREAT | 0600) == id);
  int listed = 0;
  char line[256];
  FILE* list = fopen("/proc/sysvipc/shm", "r");
  while (list && fgets(line, sizeof line, list)) {
    long its_key, its_size;
    int its_id, mode;
    if (sscanf(line, "%ld %d %o %ld", &its_key, &its_id, (unsigned*)&mode, &its_size) != 4 || its_id != id) continue;
    listed += (key_t)its_key == key && (mode & 0777) == 0640 && its_size == (long)kSize;
  }
  CHECK(listed == 1 && fclose(list) == 0);
  CHECK_ERRNO(shmget(key, kSize, IPC_CREAT | IPC_EXCL), EEXIST);
  CHECK_ERRNO(shmget(key, kSize + 1, 0), EINVAL);
  if (geteuid() != 0) CHECK_ERRNO(shmget(key, 0, 0100), EACCES);
  struct shmid_ds s = state(id);
  s.shm_perm.mode = 0400 | SHM_DEST;  // only the permissions count
  CHECK(shmctl(id, IPC_SET, &s) == 0 && state(id).shm_perm.mode == 0400);
  if (geteuid() != 0) CHECK_ERRNO((intptr_t)shmat(id, NULL, 0), EACCES);
  CHECK(shmdt(attach(id, NULL, SHM_RDONLY)) == 0);
  s.shm_perm.uid = -1;
  CHECK_ERRNO(shmctl(id, IPC_SET, &s), EINVAL);
  CHECK_ERRNO(shmctl(id, IPC_SET, wild_address), EFAULT);
  CHECK_ERRNO(shmctl(id, IPC_STAT, wild_address), EFAULT);
  CHECK(shmctl(id, IPC_RMID, wild_address) == 0);
  CHECK_ERRNO(shmget(key, kSize, 0), ENOENT);
  puts("keys");
}

static void wrong(void) {
  CHECK_ERRNO(shmget(IPC_PRIVATE, 0, 0600), EINVAL);
  CHECK_ERRNO(shmget(IPC_PRIVATE, SIZE_MAX, 0600), EINVAL);
  CHECK(shmget(IPC_PRIVATE, 1ul << 62, 0600) == -1 && shmget(IPC_PRIVATE, 1ul << 47, 0600) == -1);
  CHECK_ERRNO((intptr_t)shmat(-1, NULL, 0), EINVAL);
  CHECK_ERRNO(shmctl(INT_MIN, IPC_RMID, NULL), EINVAL);
  CHECK_ERRNO((intptr_t)shmat(INT_MAX, NULL, 0), EINVAL);
  const int id = segment();
  CHECK_ERRNO(shmctl(id, 99, NULL), EINVAL);
  CHECK_ERRNO(shmctl(id, -1, NULL), EINVAL);
  CHECK(shmctl(id, IPC_RMID, NULL) == 0);
  CHECK_ERRNO(shmctl(id, IPC_RMID, NULL), EINVAL);
  char* here = mmap(NULL, kPage, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK_ERRNO(shmdt(here), EINVAL);  // shared memory, and none of these
  puts("wrong arguments");
}

// As many as there may be, and again when they have gone. For guests only: the limit is the whole host's.
static int limit(void) {
  enum { kMost = 5000 };
  static int ids[kMost];
  for (int round = 0; round < 2; ++round) {
    int count = 0;
    while (count < kMost && (ids[count] = shmget(IPC_PRIVATE, 1, 0600)) >= 0) ++count;
    CHECK(count == 4096 && errno == ENOSPC);
    while (count > 0) CHECK(shmctl(ids[--count], IPC_RMID, NULL) == 0);
  }
  const int most = shmget(IPC_PRIVATE, 1ul << 40, 0600);  // more than the guest has
  CHECK(most == -1 && errno == ENOMEM);
  puts("limited");
  return 0;
}

int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "limit") == 0) return limit();
  if (argc > 1) {
    const int id = atoi(argv[1]);
    CHECK(state(id).shm_nattch == 1);
    return strcmp(attach(id, NULL, SHM_RDONLY), "left here") == 0 ? 5 : 6;
  }
  one_process();
  addresses();
  processes(argv[0]);
  keys();
  wrong();
}
