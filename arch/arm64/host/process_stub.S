// All code that runs in the process machine's host process besides the guest's: position-independent, without a stack
// or data of its own. It executes lists of system calls for the VMM, and reports traps to the VMM.
//
//   x19  said, x20  told, of this thread's context    w21  number of the list
//   x24  the trap's frame                             w22  command in hand, x23 where it is
#include <sys/syscall.h>

#include "arch/process_layout.h"

#define FUTEX_WAIT 0
#define FUTEX_WAKE 1

	.macro	set register value
	movz	\register, #((\value) & 0xffff)
	movk	\register, #((\value) >> 16 & 0xffff), lsl #16
	movk	\register, #((\value) >> 32 & 0xffff), lsl #32
	.endm

	// Finds the context in which the stack pointer lies.
	.macro	find_context
	mov	x9, sp
	and	x19, x9, #-RAMET_SAID_SIZE
	set	x20, RAMET_TOLD - RAMET_SAID / 4
	add	x20, x20, x19, lsr #2
	.endm

	.section .text.ramet_process_stub, "ax", %progbits
	.balign 4096
	.globl ramet_process_stub, ramet_process_stub_end, ramet_process_stub_handler
	.globl ramet_process_stub_command, ramet_process_stub_return
ramet_process_stub:
	// ELF entry point: the VMM wraps this page in a tiny executable. fd 3: contexts, fd 4: this page.
	mov	x8, #SYS_mmap
	set	x0, RAMET_TOLD
	mov	x1, #RAMET_CONTEXTS * RAMET_TOLD_SIZE
	mov	x2, #1                        // PROT_READ
	mov	x3, #0x11                     // MAP_SHARED | MAP_FIXED
	mov	x4, #3
	mov	x5, #0
	svc	#0
	tbnz	x0, #63, fail
	set	x0, RAMET_SAID
	mov	x1, #RAMET_CONTEXTS * RAMET_SAID_SIZE
	mov	x2, #3                        // PROT_READ | PROT_WRITE
	mov	x5, #RAMET_CONTEXTS * RAMET_TOLD_SIZE
	svc	#0
	tbnz	x0, #63, fail
	set	x0, RAMET_STUB_TEXT
	mov	x1, #0x1000
	mov	x2, #5                        // PROT_READ | PROT_EXEC
	mov	x4, #4
	mov	x5, #0x1000
	svc	#0
	tbnz	x0, #63, fail
	adr	x10, ramet_process_stub
	adr	x11, begin
	sub	x11, x11, x10
	add	x11, x11, x0
	set	x9, RAMET_SAID + RAMET_FIRST_STACK
	mov	sp, x9
	br	x11
fail:	mov	x8, #SYS_exit_group
	mov	x0, #3
	svc	#0

	// Where a thread begins, with its stack pointer in its context.
begin:
	find_context
	b	got

	// The signal handler, called by the host's kernel: w0 signal, x1 siginfo, with which the frame begins, x2 ucontext,
	// on the signal stack.
ramet_process_stub_handler:
	find_context
	str	w0, [x19, #SAID_SIGNAL]
	str	x1, [x19, #SAID_INFO]
	str	x2, [x19, #SAID_FRAME]
	mov	x24, x1
	ldr	w21, [x20, #TOLD_GO]          // no other list comes before this one is answered
	mrs	x9, tpidr_el0
	str	x9, [x19, #SAID_BASES]

answer:	stlr	w21, [x19]                    // SAID_DONE
	dmb	ish                           // before looking whether the VMM sleeps
	ldr	w9, [x20, #TOLD_SLEEPS]
	cbz	w9, 1f
	cmp	w9, #TOLD_SLEEPS_ON_LISTENER
	b.ne	6f
	mov	x8, #RAMET_HAND_OVER          // wakes the VMM and sleeps; it may return before the next list comes
	svc	#0
	b	1f
6:	mov	x0, x19                       // SAID_DONE
	mov	x1, #FUTEX_WAKE
	mov	x2, #1
	mov	x3, #0
	mov	x8, #SYS_futex
	svc	#0
1:	ldr	w10, [x20, #TOLD_SPIN]
2:	ldar	w9, [x20]                     // TOLD_GO
	cmp	w9, w21
	b.ne	got
	subs	w10, w10, #1
	b.mi	3f
	isb                                   // a pause
	b	2b
3:	mov	w9, #1
	add	x10, x19, #SAID_SLEEPS
	stlr	w9, [x10]
	dmb	ish                           // before looking again for a list
4:	ldar	w9, [x20]                     // TOLD_GO
	cmp	w9, w21
	b.ne	5f
	mov	x0, x20
	mov	x1, #FUTEX_WAIT
	mov	w2, w21
	mov	x3, #0
	mov	x8, #SYS_futex
	svc	#0
	b	4b
5:	str	wzr, [x19, #SAID_SLEEPS]

got:	ldar	w21, [x20]                    // TOLD_GO
	mov	w22, #0
next:	ldr	w9, [x20, #TOLD_COUNT]
	cmp	w22, w9
	b.hs	applied
	add	x23, x20, x22, lsl #6
	add	x23, x23, #TOLD_COMMANDS
	ldr	x8, [x23]
	ldp	x0, x1, [x23, #8]
	ldp	x2, x3, [x23, #24]
	ldp	x4, x5, [x23, #40]
	mov	x9, #RAMET_SET_BASE
	cmp	x8, x9
	b.ne	8f
	msr	tpidr_el0, x1
	mov	x0, #0
	b	ramet_process_stub_command
8:	svc	#0
ramet_process_stub_command:
	mov	x9, sp                        // the stack pointer of a thread that clone(2) made is in its own context
	and	x9, x9, #-RAMET_SAID_SIZE
	cmp	x9, x19
	b.ne	begin
	add	x9, x19, x22, lsl #3
	str	x0, [x9, #SAID_RESULTS]
	add	w22, w22, #1
	b	next
applied:
	add	x10, x19, #SAID_APPLIED
	stlr	w21, [x10]
	dmb	ish                           // before looking whether threads of the VMM wait for this
	ldr	w9, [x20, #TOLD_WAITED]
	cbz	w9, 7f
	mov	x0, x10
	mov	x1, #FUTEX_WAKE
	mov	x2, #0x7fffffff
	mov	x3, #0
	mov	x8, #SYS_futex
	svc	#0
7:
	ldr	w9, [x20, #TOLD_THEN]
	cbnz	w9, answer
	mov	sp, x24
	mov	x8, #SYS_rt_sigreturn
	svc	#0
ramet_process_stub_return:
	udf	#0
ramet_process_stub_end:
	.balign 4096
	.section .note.GNU-stack, "", %progbits
