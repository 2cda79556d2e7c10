// All code that runs in the process machine's host process besides the guest's: position-independent, without a stack
// or data of its own. It executes lists of system calls for the VMM, and reports traps to the VMM.
//
//   rbx  said, r13  told, of this thread's context    r15d  number of the list
//   rbp  the trap's ucontext                          r12d  command in hand, r14 where it is
#include <sys/syscall.h>

#include "arch/process_layout.h"

#define FUTEX_WAIT 0
#define FUTEX_WAKE 1

	.section .text.ramet_process_stub, "ax", @progbits
	.balign 4096
	.globl ramet_process_stub, ramet_process_stub_end, ramet_process_stub_handler
	.globl ramet_process_stub_command, ramet_process_stub_return
ramet_process_stub:
	// ELF entry point: the VMM wraps this page in a tiny executable. fd 3: contexts, fd 4: this page.
	mov	$SYS_mmap, %eax
	movabs	$RAMET_TOLD, %rdi
	mov	$RAMET_CONTEXTS * RAMET_TOLD_SIZE, %esi
	mov	$1, %edx                      // PROT_READ
	mov	$0x11, %r10d                  // MAP_SHARED | MAP_FIXED
	mov	$3, %r8d
	xor	%r9d, %r9d
	syscall
	test	%rax, %rax
	js	fail
	mov	$SYS_mmap, %eax
	movabs	$RAMET_SAID, %rdi
	mov	$RAMET_CONTEXTS * RAMET_SAID_SIZE, %esi
	mov	$3, %edx                      // PROT_READ | PROT_WRITE
	mov	$RAMET_CONTEXTS * RAMET_TOLD_SIZE, %r9d
	syscall
	test	%rax, %rax
	js	fail
	mov	$SYS_mmap, %eax
	movabs	$RAMET_STUB_TEXT, %rdi
	mov	$0x1000, %esi
	mov	$5, %edx                      // PROT_READ | PROT_EXEC
	mov	$4, %r8d
	mov	$0x1000, %r9d
	syscall
	test	%rax, %rax
	js	fail
	movabs	$RAMET_SAID + RAMET_FIRST_STACK, %rsp
	movabs	$RAMET_STUB_TEXT + (begin - ramet_process_stub), %rax
	jmp	*%rax
fail:	mov	$SYS_exit_group, %eax
	mov	$3, %edi
	syscall

	// Where a thread begins, with its stack pointer in its context.
begin:
	mov	%rsp, %rbx
	and	$-RAMET_SAID_SIZE, %rbx
	mov	%rbx, %r13
	shr	$2, %r13
	movabs	$RAMET_TOLD - RAMET_SAID / 4, %rax
	add	%rax, %r13
	jmp	got

	// The signal handler, called by the host's kernel: edi signal, rsi siginfo, rdx ucontext, on the signal stack.
ramet_process_stub_handler:
	mov	%rsp, %rbx
	and	$-RAMET_SAID_SIZE, %rbx
	mov	%rbx, %r13
	shr	$2, %r13
	movabs	$RAMET_TOLD - RAMET_SAID / 4, %rax
	add	%rax, %r13
	mov	%edi, SAID_SIGNAL(%rbx)
	mov	%rsi, SAID_INFO(%rbx)
	mov	%rdx, SAID_FRAME(%rbx)
	mov	%rdx, %rbp
	mov	TOLD_GO(%r13), %r15d          // no other list comes before this one is answered
	cmpl	$0, TOLD_BASES(%r13)
	je	answer
	rdfsbase %rax
	mov	%rax, SAID_BASES(%rbx)
	rdgsbase %rax
	mov	%rax, SAID_BASES + 8(%rbx)

answer:	mov	%r15d, %eax
	xchg	%eax, SAID_DONE(%rbx)         // a full barrier before looking whether the VMM sleeps
	mov	TOLD_SLEEPS(%r13), %eax
	test	%eax, %eax
	jz	1f
	cmp	$TOLD_SLEEPS_ON_LISTENER, %eax
	jne	6f
	mov	$RAMET_HAND_OVER, %eax        // wakes the VMM and sleeps; it may return before the next list comes
	syscall
	jmp	1f
6:	lea	SAID_DONE(%rbx), %rdi
	mov	$FUTEX_WAKE, %esi
	mov	$1, %edx
	xor	%r10d, %r10d
	mov	$SYS_futex, %eax
	syscall
1:	mov	TOLD_SPIN(%r13), %ecx
2:	cmp	%r15d, TOLD_GO(%r13)
	jne	got
	dec	%ecx
	js	3f
	pause
	jmp	2b
3:	mov	$1, %eax
	xchg	%eax, SAID_SLEEPS(%rbx)       // a full barrier before looking again for a list
4:	cmp	%r15d, TOLD_GO(%r13)
	jne	5f
	lea	TOLD_GO(%r13), %rdi
	mov	$FUTEX_WAIT, %esi
	mov	%r15d, %edx
	xor	%r10d, %r10d
	mov	$SYS_futex, %eax
	syscall
	jmp	4b
5:	movl	$0, SAID_SLEEPS(%rbx)

got:	mov	TOLD_GO(%r13), %r15d
	xor	%r12d, %r12d
next:	cmp	TOLD_COUNT(%r13), %r12d
	jae	applied
	mov	%r12d, %r14d
	shl	$6, %r14
	lea	TOLD_COMMANDS(%r13,%r14), %r14
	mov	8(%r14), %rdi
	mov	16(%r14), %rsi
	mov	24(%r14), %rdx
	mov	32(%r14), %r10
	mov	40(%r14), %r8
	mov	48(%r14), %r9
	mov	(%r14), %rax
	syscall
ramet_process_stub_command:
	mov	%rsp, %rcx                    // the stack pointer of a thread that clone(2) made is in its own context
	and	$-RAMET_SAID_SIZE, %rcx
	cmp	%rcx, %rbx
	jne	begin
	mov	%rax, SAID_RESULTS(%rbx,%r12,8)
	inc	%r12d
	jmp	next
applied:
	mov	%r15d, %eax
	xchg	%eax, SAID_APPLIED(%rbx)      // a full barrier before looking whether threads of the VMM wait for this
	cmpl	$0, TOLD_WAITED(%r13)
	je	7f
	lea	SAID_APPLIED(%rbx), %rdi
	mov	$FUTEX_WAKE, %esi
	mov	$0x7fffffff, %edx
	xor	%r10d, %r10d
	mov	$SYS_futex, %eax
	syscall
7:
	cmpl	$0, TOLD_THEN(%r13)
	jne	answer
	mov	%rbp, %rsp
	mov	$SYS_rt_sigreturn, %eax
	syscall
ramet_process_stub_return:
	ud2
ramet_process_stub_end:
	.balign 4096
	.section .note.GNU-stack, "", @progbits
