// Generations of processes, each the child of the one before. generations N ending|waiting
// Each finds what all before it wrote, writes a word of its own, and ends at once or when its child has ended.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/guests/check.h"

enum { kPage = 4096, kOld = 1024 };

static void look(const unsigned char* old, const unsigned* written, int generation) {
  for (int i = 0; i < kOld; ++i) CHECK(old[i * kPage] == i % 251);
  for (int i = 0; i < generation; ++i) CHECK(written[i] == (unsigned)i + 1);
}

int main(int argc, char** argv) {
  CHECK(argc == 3);
  const int generations = atoi(argv[1]), ending = strcmp(argv[2], "ending") == 0;
  unsigned char* old = mmap(NULL, kOld * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  unsigned* written = calloc((size_t)generations + 1, sizeof *written);
  int result[2];
  CHECK(old != MAP_FAILED && written && pipe(result) == 0);
  for (int i = 0; i < kOld; ++i) old[i * kPage] = i % 251;
  for (int generation = 0; generation <= generations; ++generation) {
    if (generation == generations) {
      look(old, written, generation);
      CHECK(write(result[1], &generation, sizeof generation) == sizeof generation);
      _exit(0);
    }
    if (generation % 16 == 0) look(old, written, generation);
    written[generation] = (unsigned)generation + 1;
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) continue;
    if (generation == 0) break;
    int status = 0;
    if (!ending) CHECK(waitpid(child, &status, 0) == child);
    _exit(status != 0);
  }
  int last = -1, status;
  close(result[1]);
  CHECK(read(result[0], &last, sizeof last) == sizeof last);
  CHECK(wait(&status) > 0 && status == 0);
  printf("%d generations\n", last);
}
