/* For programs that run in `ramet`: says where a snapshot of the program is to be taken, and tells copies that they are
 * copies. The same program runs natively as well: there the calls do nothing. One file, C and C++, no library.
 *
 *     load_everything();
 *     char arguments[256];
 *     long copy = ramet_snapshot_arguments("ready", arguments, sizeof arguments);
 *     // ramet snapshot save --when ready -o ready.snap PROGRAM          ends here
 *     // ramet snapshot run ready.snap ARG...                            goes on from here
 */
#ifndef RAMET_GUEST_H
#define RAMET_GUEST_H

#include <errno.h>
#include <unistd.h>

/* System calls that Linux never had, and answers with ENOSYS. */
#define RAMET_SNAPSHOT_CALL 400
#define RAMET_GENERATION_CALL 401

/* Returns the number of the copy, from 1 on, in a program that goes on from a snapshot; 0 where none was taken. The
 * arguments of `ramet snapshot run` follow each other in `arguments`, each with its zero, and an empty one at the end;
 * what does not fit into `size` bytes is left out. */
static inline long ramet_snapshot_arguments(const char *name, char *arguments, unsigned long size) {
  const int saved = errno;
  long result;
  if (size) arguments[0] = 0;
  result = syscall(RAMET_SNAPSHOT_CALL, name, arguments, size);
  errno = saved;
  return result > 0 ? result : 0;
}

static inline long ramet_snapshot(const char *name) { return ramet_snapshot_arguments(name, (char *)0, 0); }

/* What a copy must make anew (random generators' states, keys, names that nobody else may have) is out of date when the
 * generation is another one than it was made in. */
enum { RAMET_GENERATION_READ, RAMET_GENERATION_WAIT, RAMET_GENERATION_SIGNAL };

/* How many snapshots the program has come through: 0 in one that was started, 1 in its copies, 2 in copies of those.
 * The file /proc/ramet/generation says the same. */
static inline unsigned long ramet_generation(void) {
  const int saved = errno;
  const long result = syscall(RAMET_GENERATION_CALL, RAMET_GENERATION_READ, 0);
  errno = saved;
  return result > 0 ? (unsigned long)result : 0;
}

/* Waits while the generation is `seen`, in a thread of its own, and returns another one. -1: interrupted by a signal handler
 * (EINTR); natively at once, as there never is another one (ENOSYS). For poll(2) and its like there is the device
 * /dev/ramet_generation: as an eventfd, whose read(2) gives the generation once in each copy. */
static inline long ramet_generation_wait(unsigned long seen) {
  return syscall(RAMET_GENERATION_CALL, RAMET_GENERATION_WAIT, seen);
}

/* From now on each copy begins with signal `sig`, sent to the process with the generation as its value (SI_QUEUE); 0: with
 * none, as after execve(2) and in children of fork(2). Returns 0, also natively; -1: `sig` is no signal (EINVAL). */
static inline int ramet_generation_signal(int sig) {
  const int saved = errno;
  const long result = syscall(RAMET_GENERATION_CALL, RAMET_GENERATION_SIGNAL, sig);
  if (result == 0 || errno != ENOSYS) return (int)result;
  errno = saved;
  return 0;
}

#endif
