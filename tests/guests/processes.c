// Processes: what fork, wait, pipes, signals, groups and shared memory do between them. `processes CASE [DIRECTORY]`;
// exec.c has what execve does.
#define _GNU_SOURCE
#include <signal.h>

#include "processes.h"

int main(int count, char** words) {
  CHECK(count >= 2);
  for (int sig = SIGHUP; sig <= SIGQUIT; ++sig) signal(sig, SIG_DFL);  // nohup(1) and shells may have ignored them
  const char* what = words[1];
  const char* directory = count > 2 ? words[2] : ".";
  const int number = count > 2 ? atoi(words[2]) : 0;
  if (!strcmp(what, "basics")) basics();
  else if (!strcmp(what, "tree")) tree(number);
  else if (!strcmp(what, "many")) many(number);
  else if (!strcmp(what, "threaded")) threaded(number);
  else if (!strcmp(what, "pipeline")) pipeline();
  else if (!strcmp(what, "files")) files(directory);
  else if (!strcmp(what, "shared")) shared(directory);
  else if (!strcmp(what, "signals")) signals();
  else if (!strcmp(what, "orphans")) orphans();
  else if (!strcmp(what, "limit")) limit();
  else if (!strcmp(what, "bomb")) bomb();
  else if (!strcmp(what, "hostile")) hostile(strtoull(directory, NULL, 0));
  else return 2;
  return 0;
}
