/* The interface between the VMM and the vDSO that guests see (vdso.S). The image is one page; the page before it holds
   data, which the VMM writes before the program runs and the program can only read. */
#ifndef RAMET_ARCH_VDSO_LAYOUT_H
#define RAMET_ARCH_VDSO_LAYOUT_H

#define VDSO_PAGE 0x1000

/* data */
#define VDSO_SAME 0      /* u32: bit n: the host's functions give the program's clock n */
#define VDSO_MOVED 4     /* u32: bit n: they give clock n if its offset is added */
/* u64: addresses of the host's functions in the program; 0: none, make the system call */
#define VDSO_CLOCK_GETTIME 8
#define VDSO_CLOCK_GETRES 16
#define VDSO_GETTIMEOFDAY 24
#define VDSO_TIME 32
#define VDSO_GETCPU 40
#define VDSO_OFFSETS 64  /* of clocks 0, 1, ...: s64 seconds, s64 nanoseconds, which are 0 to 999,999,999 */

#define VDSO_CLOCKS 12   /* CLOCK_TAI is the last */

#endif
