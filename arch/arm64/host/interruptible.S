// See interruptible.hpp. Inside the window X19 holds the address of the word, so that the handler can check that
// the interruption is meant for this call.
        .text
        .globl  ramet_interruptible_syscall, ramet_interruptible_begin
        .globl  ramet_interruptible_end, ramet_interruptible_abort, ramet_interruptible_again
        .type   ramet_interruptible_syscall, %function
        .type   ramet_interruptible_again, %function
        .macro  enter
        .cfi_startproc
        hint    #34                     // bti c
        stp     x29, x30, [sp, #-32]!
        .cfi_def_cfa_offset 32
        .cfi_offset x29, -32
        .cfi_offset x30, -24
        str     x19, [sp, #16]
        .cfi_offset x19, -16
        mov     x29, sp
        mov     x19, x0
        mov     x8, x1
        mov     x6, x2
        ldp     x0, x1, [x6]
        ldp     x2, x3, [x6, #16]
        ldp     x4, x5, [x6, #32]
        .endm
        .macro  leave
        ldr     x19, [sp, #16]
        ldp     x29, x30, [sp], #32
        .cfi_restore x19
        .cfi_restore x29
        .cfi_restore x30
        .cfi_def_cfa_offset 0
        ret
        .endm
ramet_interruptible_again:
        enter
        b       0f
        .cfi_endproc
        .size   ramet_interruptible_again, . - ramet_interruptible_again

ramet_interruptible_syscall:
        enter
ramet_interruptible_begin:
        ldr     w9, [x19]
        cbnz    w9, ramet_interruptible_abort
0:      svc     #0
ramet_interruptible_end:
        .cfi_remember_state
        leave
        .cfi_restore_state
ramet_interruptible_abort:
        mov     x0, #-4                 // -EINTR
        leave
        .cfi_endproc
        .size   ramet_interruptible_syscall, . - ramet_interruptible_syscall

// Where the handler of the interrupting signal returns to (SA_RESTORER).
        .globl  ramet_return_from_signal
        .type   ramet_return_from_signal, %function
ramet_return_from_signal:
        mov     x8, #139                // rt_sigreturn
        svc     #0
        .size   ramet_return_from_signal, . - ramet_return_from_signal
        .section .note.GNU-stack, "", %progbits
