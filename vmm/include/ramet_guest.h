/* For programs that run in `ramet`: says where a snapshot of the program is to be taken. The same program runs natively
 * as well: there the calls do nothing. One file, C and C++, no library.
 *
 *     load_everything();
 *     char arguments[256];
 *     long copy = ramet_snapshot_arguments("ready", arguments, sizeof arguments);
 *     // ramet snapshot save --when ready -o ready.snap PROGRAM          ends here
 *     // ramet snapshot run ready.snap ARG...                            goes on from here
 */
#ifndef RAMET_GUEST_H
#define RAMET_GUEST_H

/* A system call that Linux never had on x86-64, and answers with ENOSYS. */
#define RAMET_SNAPSHOT_CALL 400

/* Returns the number of the copy, from 1 on, in a program that goes on from a snapshot; 0 where none was taken. The
 * arguments of `ramet snapshot run` follow each other in `arguments`, each with its zero, and an empty one at the end;
 * what does not fit into `size` bytes is left out. */
static inline long ramet_snapshot_arguments(const char *name, char *arguments, unsigned long size) {
  long result;
  if (size) arguments[0] = 0;
#ifdef __x86_64__
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"((long)RAMET_SNAPSHOT_CALL), "D"(name), "S"(arguments), "d"(size)
                   : "rcx", "r11", "memory");
#else
  (void)name;
  result = 0;
#endif
  return result > 0 ? result : 0;
}

static inline long ramet_snapshot(const char *name) { return ramet_snapshot_arguments(name, (char *)0, 0); }

#endif
