// Memory that is asked for writable and executable at once, as just-in-time compilers do: rwx
// Prints whether it was granted, and if so rewrites and runs code in it many times over.
#define _GNU_SOURCE
#include <sys/mman.h>

#include "check.h"
#include "isa.h"

int main(void) {
  unsigned char* code = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (code == MAP_FAILED) {
    printf("refused: %s\n", strerror(errno));
    return 1;
  }
  long sum = 0;
  for (int i = 0; i < 100; ++i) {
    unsigned char* at = code + (i % 2) * 4096;
    __builtin___clear_cache((char*)at, (char*)at + isa_function((uint16_t)(256 + i), at));
    sum += ((int (*)(void))at)();
  }
  printf("granted: %ld\n", sum);
  return 0;
}
