// An idle guest: says that it is ready and sleeps until its standard input ends.
#include <unistd.h>

int main(void) {
  char c;
  if (write(1, "ready\n", 6) != 6) return 1;
  while (read(0, &c, 1) > 0) {
  }
  return 0;
}
