// Files in memory: mapped_files DIRECTORY. Private and shared mappings, and how reads, writes,
// truncation, msync and unmapping show through each other.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

enum { kPage = 4096, kPages = 700 };

static char* map(int fd, int prot, int flags, size_t pages, off_t offset) {
  char* p = mmap(NULL, pages * kPage, prot, flags, fd, offset);
  CHECK(p != MAP_FAILED);
  return p;
}

// A mapping that grows shows more of the file, at its place or elsewhere, as do others that stay.
static void mappings_grow(int fd) {
  char page[kPage];
  CHECK(pwrite(fd, "ten", 3, 10 * kPage) == 3 && pwrite(fd, "thirty", 6, 30 * kPage) == 6);
  char* hole = map(-1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, 64, 0);
  CHECK(munmap(hole, 64 * kPage) == 0);
  char* grown = mmap(hole, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 9 * kPage);
  CHECK(grown == hole && memcmp(grown + kPage, "ten", 3) == 0);
  CHECK(mremap(grown, 2 * kPage, 4 * kPage, 0) == grown && memcmp(grown + kPage, "ten", 3) == 0);
  grown[3 * kPage] = 'g';
  CHECK(pread(fd, page, 1, 12 * kPage) == 1 && page[0] == 'g');
  CHECK(mremap(grown + kPage, 3 * kPage, 21 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, hole + 32 * kPage) ==
        hole + 32 * kPage);
  grown = hole + 32 * kPage;
  CHECK(memcmp(grown, "ten", 3) == 0 && grown[2 * kPage] == 'g' && memcmp(grown + 20 * kPage, "thirty", 6) == 0);
  grown[20 * kPage] = 'T';
  CHECK(pread(fd, page, 2, 30 * kPage) == 2 && page[0] == 'T' && page[1] == 'h');
  char* again = mremap(grown, 21 * kPage, 21 * kPage, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
  CHECK(again != MAP_FAILED && again != grown && again[20 * kPage] == 'T');
  again[0] = 'X';
  CHECK(grown[0] == 'X');  // of a shared mapping, both places show the file
}

static void memory_without_a_file(void) {
  char* anonymous = map(-1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, 4, 0);
  anonymous[kPage] = 's';
  CHECK(anonymous[kPage] == 's');
  int memory = memfd_create("memory", MFD_CLOEXEC);
  if (memory >= 0) {
    CHECK(ftruncate(memory, kPage) == 0);
    char* one = map(memory, PROT_READ | PROT_WRITE, MAP_SHARED, 1, 0), *two = map(memory, PROT_READ, MAP_SHARED, 1, 0);
    one[9] = 'm';
    CHECK(two[9] == 'm');
  }
}

static void read_only_file(void) {
  int readonly = open("mapped", O_RDONLY);
  CHECK_ERRNO((intptr_t)mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, readonly, 0), EACCES);
  char* view = map(readonly, PROT_READ, MAP_SHARED, 1, 0);
  CHECK_ERRNO(mprotect(view, kPage, PROT_READ | PROT_WRITE), EACCES);
  CHECK(map(readonly, PROT_READ | PROT_WRITE, MAP_PRIVATE, 1, 0)[1] == 0);
  CHECK_ERRNO((intptr_t)mmap(NULL, kPage, PROT_READ, MAP_SHARED, readonly, 1), EINVAL);
}

int main(int argc, char** argv) {
  CHECK(argc == 2 && chdir(argv[1]) == 0);
  int fd = open("mapped", O_RDWR | O_CREAT | O_TRUNC, 0644);
  CHECK(fd >= 0);
  char page[kPage];
  for (int i = 0; i < kPages; ++i) {
    memset(page, i % 251, sizeof page);
    CHECK(write(fd, page, sizeof page) == sizeof page);
  }

  char* private = map(fd, PROT_READ | PROT_WRITE, MAP_PRIVATE, kPages, 0);
  uint64_t sum = 0;
  for (size_t i = 0; i < (size_t)kPages * kPage; i += 64) sum = sum * 31 + (unsigned char)private[i];
  printf("read through a private mapping: %016llx\n", (unsigned long long)sum);
  for (int i = 0; i < kPages; i += 3) private[i * kPage + 7] = 'p';
  CHECK(pread(fd, page, kPage, 0) == kPage && page[7] == 0);  // the file does not see it

  char* shared = map(fd, PROT_READ | PROT_WRITE, MAP_SHARED, kPages, 0);
  char* second = map(fd, PROT_READ, MAP_SHARED, 10, 5 * kPage);
  for (int i = 0; i < kPages; i += 2) shared[i * kPage + 8] = (char)('a' + i % 26);
  CHECK(second[kPage + 8] == 'a' + 6 && private[3 * kPage + 7] == 'p' && private[kPage + 7] == 1);
  CHECK(pread(fd, page, kPage, 6 * kPage) == kPage && page[8] == 'a' + 6);
  CHECK(pwrite(fd, "from write", 10, 5 * kPage) == 10 && memcmp(shared + 5 * kPage, "from write", 10) == 0 &&
        memcmp(second, "from write", 10) == 0);
  CHECK(msync(shared, kPages * kPage, MS_SYNC) == 0 && msync(shared, kPage, MS_ASYNC) == 0);
  CHECK_ERRNO(msync(shared + 1, kPage, MS_SYNC), EINVAL);
  // A system call straight out of and into mapped files.
  int other = open("copied", O_RDWR | O_CREAT | O_TRUNC, 0644);
  CHECK(write(other, shared + 100 * kPage, 50 * kPage) == 50 * kPage);
  CHECK(pread(other, shared + 200 * kPage, 50 * kPage, 0) == 50 * kPage);
  CHECK(memcmp(shared + 100 * kPage, shared + 200 * kPage, 50 * kPage) == 0);

  read_only_file();

  // Growing the file makes pages of an older mapping usable.
  char* long_view = map(fd, PROT_READ | PROT_WRITE, MAP_SHARED, kPages + 4, 0);
  CHECK(ftruncate(fd, (kPages + 2) * (off_t)kPage) == 0);
  long_view[(kPages + 1) * kPage] = 'g';
  CHECK(pread(fd, page, 1, (kPages + 1) * (off_t)kPage) == 1 && page[0] == 'g');
  // A last page in part: what lies behind the end is zero and stays out of the file.
  CHECK(ftruncate(fd, kPages * (off_t)kPage + 10) == 0);
  long_view[kPages * kPage + 5] = 'e';
  long_view[kPages * kPage + 500] = 'x';
  CHECK(munmap(long_view, (kPages + 4) * kPage) == 0 && munmap(shared, kPages * kPage) == 0);

  // Moved and cut mappings still show the same bytes.
  char* moved = mremap(private, kPages * kPage, (kPages - 100) * kPage, 0);
  CHECK(moved == private);
  char* place = mmap(NULL, kPages * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(mremap(private, 10 * kPage, 10 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place && place[7] == 'p');
  CHECK(madvise(place, kPage, MADV_DONTNEED) == 0 && place[7] == 0);  // private pages come from the file again

  mappings_grow(fd);
  memory_without_a_file();
  CHECK(close(fd) == 0 && second[kPage + 8] == 'a' + 6);  // a mapping outlives its descriptor
  struct stat s;
  CHECK(stat("mapped", &s) == 0);
  printf("the file ends with %lld bytes\n", (long long)s.st_size);
  return 0;
}
