/* What the vDSO that guests see (vdso.S) and the VMM agree on. Its image is one page; the page before it holds data,
   which the program can only read and the VMM writes before the program runs. */
#ifndef RAMET_ARCH_VDSO_LAYOUT_H
#define RAMET_ARCH_VDSO_LAYOUT_H

#define VDSO_PAGE 0x1000

/* data */
#define VDSO_SAME 0      /* u32: bit n: the host's functions tell clock n, and the program's shows the same */
#define VDSO_MOVED 4     /* u32: they tell clock n, and its offset is to be added */
/* u64: where the program reaches the host's functions; 0: nowhere, it makes the system call */
#define VDSO_CLOCK_GETTIME 8
#define VDSO_CLOCK_GETRES 16
#define VDSO_GETTIMEOFDAY 24
#define VDSO_TIME 32
#define VDSO_GETCPU 40
#define VDSO_OFFSETS 64  /* of clocks 0, 1, ...: s64 seconds, s64 nanoseconds, which are 0 to 999,999,999 */

#define VDSO_CLOCKS 12   /* CLOCK_TAI is the last */

#endif
