/* The interface between the VMM and the process machine's stub (process_stub.S of either architecture), which runs in
   the guest's host process. Addresses lie above the guest's user end. A context belongs to one thread of that process:
   a page that the VMM writes and the process can only read ("told"), and an area that the process writes ("said"): a
   page of answers, then the signal stack, where the host's kernel puts the frame with the guest's registers. */
#ifndef RAMET_ARCH_PROCESS_LAYOUT_H
#define RAMET_ARCH_PROCESS_LAYOUT_H

#if defined(__x86_64__)
#define RAMET_USER_END 0x7ffffc000000 /* guest addresses end here, on every machine */
#define RAMET_STUB_TEXT 0x7ffffc000000 /* one page, read and execute */
#define RAMET_HOST_VDSO 0x7ffffc100000 /* from here on: the data pages of the host's vDSO, then its image */
#define RAMET_TOLD 0x7ffffd000000
#define RAMET_SAID 0x7ffffe000000
#define RAMET_TOP 0x7ffffffff000 /* a host process maps below this, or below less if the host's addresses are shorter */
#elif defined(__aarch64__)
#define RAMET_USER_END 0x7ffc000000
#define RAMET_STUB_TEXT 0x7ffc000000
#define RAMET_HOST_VDSO 0x7ffc100000
#define RAMET_TOLD 0x7ffd000000
#define RAMET_SAID 0x7ffe000000
#define RAMET_TOP 0x1000000000000
#else
#error "unknown architecture"
#endif

#define RAMET_CONTEXTS 1024 /* number 0 is the mapper's; the told page of the last one holds the seccomp filters */
#define RAMET_TOLD_SIZE 0x1000
#define RAMET_SAID_SIZE 0x4000
#define RAMET_SIGNAL_STACK 0x1000 /* offset in said; to its end */

/* told */
#define TOLD_GO 0     /* u32: number of the newest command list */
#define TOLD_SLEEPS 4 /* u32: not 0 if the VMM sleeps until the list is answered; how to wake it: */
#define TOLD_SLEEPS_ON_FUTEX 1
#define TOLD_SLEEPS_ON_LISTENER 2 /* by RAMET_HAND_OVER */
#define TOLD_SPIN 8   /* u32: how often to look for the next list before sleeping */
#define TOLD_COUNT 12 /* u32: commands in the list */
#define TOLD_THEN 16  /* u32: what follows the commands: 0 the guest's code (rt_sigreturn), 1 the answer at once */
#define TOLD_BASES 20 /* u32: 1 if user code can read and write its bases by itself on this host */
#define TOLD_WAITED 24 /* u32: how many of the VMM's threads sleep until a list is applied: wake them */
#define TOLD_COMMANDS 256 /* of 64 bytes: u64 call number, six arguments, unused */
#define TOLD_MOST_COMMANDS 48
#define TOLD_DATA 3328 /* what commands point to */

/* said */
#define SAID_DONE 0    /* u32: number of the last list that has been answered: by a trap, or by its results */
#define SAID_SLEEPS 4  /* u32: 1 if the thread sleeps until there is another list */
#define SAID_APPLIED 8 /* u32: number of the last list whose commands have been carried out */
#define SAID_SIGNAL 12 /* u32: of the trap */
#define SAID_INFO 16   /* u64: address of the trap's siginfo */
#define SAID_FRAME 24  /* u64: address of its ucontext */
#define SAID_BASES 32  /* u64 each, if TOLD_BASES */
#define SAID_RESULTS 256 /* u64 per command */

#define RAMET_FIRST_STACK 16 /* offset in said: the stack pointer of a thread that begins */

/* Numbers of system calls that no kernel has. The thread's seccomp filter turns this one into its first trap. */
#define RAMET_FIRST_TRAP 0x7abd
/* The VMM is told of this one by the listener of the thread's filter; its reply lets the thread go on. */
#define RAMET_HAND_OVER 0x7abe
/* As a command: arm64's stub sets the thread's base. */
#define RAMET_SET_BASE 0x7abf

#endif
