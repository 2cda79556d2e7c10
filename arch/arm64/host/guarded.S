// See guarded.hpp. Results: X0 the value, X1 whether it faulted. No function here touches the stack.
        .text
        .globl  ramet_guarded_begin, ramet_guarded_end, ramet_guarded_landing
        .globl  ramet_guarded_copy, ramet_guarded_load, ramet_guarded_store, ramet_guarded_compare_exchange
        .type   ramet_guarded_copy, %function
        .type   ramet_guarded_load, %function
        .type   ramet_guarded_store, %function
        .type   ramet_guarded_compare_exchange, %function

ramet_guarded_begin:

// X0 to, X1 from, X2 bytes. The end is copied by words that overlap what has been copied already.
        .p2align 5
ramet_guarded_copy:
        .cfi_startproc
        hint    #34                     // bti c
        cmp     x2, #16
        b.lo    .Lsmall
        add     x3, x1, x2              // the end of what is read
        add     x4, x0, x2              // and of what is written
        ldp     x5, x6, [x3, #-16]
        sub     x4, x4, #16             // where the last 16 go
        subs    x2, x2, #64
        b.ls    .Lpairs
.Lblock:                                // more than 64: 64 at a time
        ldp     x7, x8, [x1]
        ldp     x9, x10, [x1, #16]
        ldp     x11, x12, [x1, #32]
        ldp     x13, x14, [x1, #48]
        stp     x7, x8, [x0]
        stp     x9, x10, [x0, #16]
        stp     x11, x12, [x0, #32]
        stp     x13, x14, [x0, #48]
        add     x1, x1, #64
        add     x0, x0, #64
        subs    x2, x2, #64
        b.hi    .Lblock
.Lpairs:                                // 64 or less: 16 at a time, then the last 16
        cmp     x0, x4
        b.hs    .Llast
        ldp     x7, x8, [x1], #16
        stp     x7, x8, [x0], #16
        b       .Lpairs
.Llast:
        stp     x5, x6, [x4]
        mov     x1, #0
        ret
.Lsmall:
        cmp     x2, #8
        b.lo    .Lbelow8
        add     x3, x1, x2
        add     x4, x0, x2
        ldr     x5, [x1]
        ldr     x6, [x3, #-8]
        str     x5, [x0]
        str     x6, [x4, #-8]
        mov     x1, #0
        ret
.Lbelow8:
        cmp     x2, #4
        b.lo    .Lbelow4
        add     x3, x1, x2
        add     x4, x0, x2
        ldr     w5, [x1]
        ldr     w6, [x3, #-4]
        str     w5, [x0]
        str     w6, [x4, #-4]
        mov     x1, #0
        ret
.Lbelow4:
        cbz     x2, .Ldone
.Lbyte:
        ldrb    w5, [x1], #1
        strb    w5, [x0], #1
        subs    x2, x2, #1
        b.ne    .Lbyte
.Ldone:
        mov     x1, #0
        ret
        .cfi_endproc
        .size   ramet_guarded_copy, . - ramet_guarded_copy

        .p2align 4
ramet_guarded_load:
        .cfi_startproc
        hint    #34
        ldar    w0, [x0]
        mov     x1, #0
        ret
        .cfi_endproc
        .size   ramet_guarded_load, . - ramet_guarded_load

        .p2align 4
ramet_guarded_store:
        .cfi_startproc
        hint    #34
        stlr    w1, [x0]
        mov     x1, #0
        ret
        .cfi_endproc
        .size   ramet_guarded_store, . - ramet_guarded_store

// If the value differs from the expected one, what was read is written back, as by x86's CMPXCHG: a word that cannot be
// written faults in either case.
        .p2align 4
ramet_guarded_compare_exchange:
        .cfi_startproc
        hint    #34
1:      ldaxr   w3, [x0]
        cmp     w3, w1
        csel    w5, w2, w3, eq
        stlxr   w4, w5, [x0]
        cbnz    w4, 1b
        mov     w0, w3
        mov     x1, #0
        ret
        .cfi_endproc
        .size   ramet_guarded_compare_exchange, . - ramet_guarded_compare_exchange

// One word of a size; see guarded_word.hpp. Barriers beside plain accesses, as words need not be aligned.

        .macro  word bits, size, value
        .globl  ramet_guarded_load_\bits, ramet_guarded_store_\bits, ramet_guarded_exchange_\bits
        .type   ramet_guarded_load_\bits, %function
        .type   ramet_guarded_store_\bits, %function
        .type   ramet_guarded_exchange_\bits, %function
        .p2align 4
ramet_guarded_load_\bits:
        .cfi_startproc
        hint    #34
        ldr\size \value\()0, [x0]
        dmb     ishld
        mov     x1, #0
        ret
        .cfi_endproc
        .size   ramet_guarded_load_\bits, . - ramet_guarded_load_\bits

        .p2align 4
ramet_guarded_store_\bits:
        .cfi_startproc
        hint    #34
        dmb     ish
        str\size \value\()1, [x0]
        mov     x1, #0
        ret
        .cfi_endproc
        .size   ramet_guarded_store_\bits, . - ramet_guarded_store_\bits

        .p2align 4
ramet_guarded_exchange_\bits:
        .cfi_startproc
        hint    #34
1:      ldaxr\size \value\()3, [x0]
        eor     \value\()4, \value\()3, \value\()1
    .if \bits < 32
        ands    \value\()4, \value\()4, #(1 << \bits) - 1
    .else
        tst     \value\()4, \value\()4
    .endif
        csel    \value\()5, \value\()2, \value\()3, eq
        stlxr\size w4, \value\()5, [x0]
        cbnz    w4, 1b
        dmb     ish
        mov     \value\()0, \value\()3
        mov     x1, #0
        ret
        .cfi_endproc
        .size   ramet_guarded_exchange_\bits, . - ramet_guarded_exchange_\bits
        .endm

        word    8, b, w
        word    16, h, w
        word    32, , w
        word    64, , x

        .globl  ramet_guarded_load_128, ramet_guarded_store_128, ramet_guarded_exchange_128
        .type   ramet_guarded_load_128, %function
        .type   ramet_guarded_store_128, %function
        .type   ramet_guarded_exchange_128, %function
        .p2align 4
ramet_guarded_load_128:                 // X0 from, X1 to, in the VMM's own memory
        .cfi_startproc
        hint    #34
        ldp     x3, x4, [x0]
        dmb     ishld
        stp     x3, x4, [x1]
        mov     x1, #0
        ret
        .cfi_endproc
        .size   ramet_guarded_load_128, . - ramet_guarded_load_128

        .p2align 4
ramet_guarded_store_128:                // X0 to, X1 from
        .cfi_startproc
        hint    #34
        ldp     x3, x4, [x1]
        dmb     ish
        stp     x3, x4, [x0]
        mov     x1, #0
        ret
        .cfi_endproc
        .size   ramet_guarded_store_128, . - ramet_guarded_store_128

        .p2align 4
ramet_guarded_exchange_128:             // X0 at, X1 expected, X2 desired
        .cfi_startproc
        hint    #34
        ldp     x3, x4, [x1]
        ldp     x5, x6, [x2]
1:      ldaxp   x7, x9, [x0]
        cmp     x7, x3
        ccmp    x9, x4, #0, eq
        csel    x10, x5, x7, eq
        csel    x11, x6, x9, eq
        cset    w12, eq
        stlxp   w13, x10, x11, [x0]
        cbnz    w13, 1b
        dmb     ish
        stp     x7, x9, [x1]
        mov     x0, x12
        mov     x1, #0
        ret
        .cfi_endproc
        .size   ramet_guarded_exchange_128, . - ramet_guarded_exchange_128

// Cache maintenance, see exec_sync.cpp: X0 start, the beginning of a line; X1 end; X2 bytes of a line.
        .macro  lines name, operation:vararg
        .globl  \name
        .type   \name, %function
        .p2align 4
\name:
        .cfi_startproc
        hint    #34
1:      \operation, x0
        add     x0, x0, x2
        cmp     x0, x1
        b.lo    1b
        mov     x1, #0
        ret
        .cfi_endproc
        .size   \name, . - \name
        .endm
        lines   ramet_guarded_clean, dc cvau
        lines   ramet_guarded_invalidate, ic ivau

ramet_guarded_end:

        .type   ramet_guarded_landing, %function
ramet_guarded_landing:
        .cfi_startproc
        mov     x1, #1
        ret
        .cfi_endproc
        .size   ramet_guarded_landing, . - ramet_guarded_landing
        .section .note.GNU-stack, "", %progbits
