// The smallest real program: start, print, arguments, environment, exit status.
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char** argv, char** envp) {
  printf("hello");
  for (int i = 1; i < argc; ++i) printf(" %s", argv[i]);
  printf("\n");
  for (char** e = envp; argc > 1 && *e; ++e) printf("env %s\n", *e);
  return argc > 2 ? atoi(argv[2]) : 0;
}
