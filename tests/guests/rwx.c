// Memory that is asked for writable and executable at once, as just-in-time compilers do: rwx
// Prints whether it was granted, and if so rewrites and runs code in it many times over.
#define _GNU_SOURCE
#include <sys/mman.h>

#include "check.h"

int main(void) {
  unsigned char* code = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (code == MAP_FAILED) {
    printf("refused: %s\n", strerror(errno));
    return 1;
  }
  long sum = 0;
  for (int i = 0; i < 100; ++i) {
    unsigned char* at = code + (i % 2) * 4096;
    const unsigned char text[] = {0xb8, (unsigned char)i, 1, 0, 0, 0xc3};  // mov $256+i, %eax; ret
    memcpy(at, text, sizeof text);
    sum += ((int (*)(void))at)();
  }
  printf("granted: %ld\n", sum);
  return 0;
}
