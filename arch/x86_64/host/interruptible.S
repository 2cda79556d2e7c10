// See interruptible.hpp. Inside the window RBX holds the address of the word, so that the handler can check that
// the interruption is meant for this call.
        .text
        .globl  ramet_interruptible_syscall, ramet_interruptible_begin
        .globl  ramet_interruptible_end, ramet_interruptible_abort, ramet_interruptible_again
        .type   ramet_interruptible_syscall, @function
        .type   ramet_interruptible_again, @function
        .macro  enter
        .cfi_startproc
        endbr64
        pushq   %rbx
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %rbx, 0
        movq    %rdi, %rbx
        movq    %rsi, %rax
        movq    0(%rdx), %rdi
        movq    8(%rdx), %rsi
        movq    24(%rdx), %r10
        movq    32(%rdx), %r8
        movq    40(%rdx), %r9
        movq    16(%rdx), %rdx
        .endm
ramet_interruptible_again:
        enter
        jmp     0f
        .cfi_endproc
        .size   ramet_interruptible_again, . - ramet_interruptible_again

ramet_interruptible_syscall:
        enter
ramet_interruptible_begin:
        cmpl    $0, (%rbx)
        jne     ramet_interruptible_abort
0:      syscall
ramet_interruptible_end:
        popq    %rbx
        .cfi_remember_state
        .cfi_adjust_cfa_offset -8
        .cfi_restore %rbx
        ret
        .cfi_restore_state
ramet_interruptible_abort:
        movq    $-4, %rax               // -EINTR
        popq    %rbx
        .cfi_adjust_cfa_offset -8
        .cfi_restore %rbx
        ret
        .cfi_endproc
        .size   ramet_interruptible_syscall, . - ramet_interruptible_syscall

// Where the handler of the interrupting signal returns to (SA_RESTORER).
        .globl  ramet_return_from_signal
        .type   ramet_return_from_signal, @function
ramet_return_from_signal:
        movq    $15, %rax               // rt_sigreturn
        syscall
        .size   ramet_return_from_signal, . - ramet_return_from_signal
        .section .note.GNU-stack, "", @progbits
