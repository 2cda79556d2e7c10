// The trap stub: all the guest kernel there is, one page of EL1 code, independent of its address.
// It saves user code's registers to the vCPU's own page and leaves to the VMM by a store to an address without memory.
// When it is resumed after that store, it carries out the page's command and returns to user code. What it relies on:
//  - SP_EL1 points to that page; user code has SP_EL0, and no instruction here changes SP;
//  - KVM moves the program counter over the store in the next KVM_RUN, and only then;
//  - no register that user code controls is ever an address here;
//  - interrupts are masked here and nowhere else: one that is raised meanwhile is taken before user code's next
//    instruction.
#include "arch/arm64/host/stub_layout.h"

        .section .rodata.ramet_stub, "a", %progbits
        .balign 4096

        .globl  ramet_stub_begin
ramet_stub_begin:                       // VBAR_EL1
        .set    vector, 0
        .rept   STUB_VECTORS
        .balign 128
        stp     x0, x1, [sp, #STUB_REGS]
        mov     x0, #vector
        b       .Lsave
        .set    vector, vector + 1
        .endr

        .balign 128
.Lsave:
        stp     x2, x3, [sp, #STUB_REGS + 16]
        stp     x4, x5, [sp, #STUB_REGS + 32]
        stp     x6, x7, [sp, #STUB_REGS + 48]
        stp     x8, x9, [sp, #STUB_REGS + 64]
        stp     x10, x11, [sp, #STUB_REGS + 80]
        stp     x12, x13, [sp, #STUB_REGS + 96]
        stp     x14, x15, [sp, #STUB_REGS + 112]
        stp     x16, x17, [sp, #STUB_REGS + 128]
        stp     x18, x19, [sp, #STUB_REGS + 144]
        stp     x20, x21, [sp, #STUB_REGS + 160]
        stp     x22, x23, [sp, #STUB_REGS + 176]
        stp     x24, x25, [sp, #STUB_REGS + 192]
        stp     x26, x27, [sp, #STUB_REGS + 208]
        stp     x28, x29, [sp, #STUB_REGS + 224]
        mrs     x1, sp_el0
        stp     x30, x1, [sp, #STUB_REGS + 240]
        mrs     x1, elr_el1
        mrs     x2, spsr_el1
        stp     x1, x2, [sp, #STUB_REGS + 256]
        mrs     x1, esr_el1
        mrs     x2, far_el1
        stp     x1, x2, [sp, #STUB_ESR]
        mrs     x1, tpidr_el0
        str     x1, [sp, #STUB_THREAD]
.Lleave:
        adr     x1, ramet_stub_begin + STUB_HOLE
        str     x0, [x1]

        .globl  ramet_stub_resume       // where a new vCPU begins
ramet_stub_resume:
        ldr     x0, [sp, #STUB_COMMAND]
        cbz     x0, .Lreturn
        tbz     x0, #STUB_DO_FLUSH, 1f
        dsb     ishst                   // for entries that the VMM wrote
        ldr     x1, [sp, #STUB_RANGES]
        cbnz    x1, 4f
        tlbi    vmalle1is
        b       7f
4:      add     x2, sp, #STUB_RANGE
5:      ldp     x3, x4, [x2], #16
6:      tlbi    vaae1is, x3             // the page's entry, and entries cached from the walk to it
        add     x3, x3, #1
        subs    x4, x4, #1
        b.ne    6b
        subs    x1, x1, #1
        b.ne    5b
7:      dsb     ish
        isb
1:      tbz     x0, #STUB_DO_LOAD_FP, 2f
        add     x1, sp, #STUB_FP
        ldp     q0, q1, [x1], #32
        ldp     q2, q3, [x1], #32
        ldp     q4, q5, [x1], #32
        ldp     q6, q7, [x1], #32
        ldp     q8, q9, [x1], #32
        ldp     q10, q11, [x1], #32
        ldp     q12, q13, [x1], #32
        ldp     q14, q15, [x1], #32
        ldp     q16, q17, [x1], #32
        ldp     q18, q19, [x1], #32
        ldp     q20, q21, [x1], #32
        ldp     q22, q23, [x1], #32
        ldp     q24, q25, [x1], #32
        ldp     q26, q27, [x1], #32
        ldp     q28, q29, [x1], #32
        ldp     q30, q31, [x1], #32
        ldp     w2, w3, [x1]
        msr     fpsr, x2
        msr     fpcr, x3
2:      tbz     x0, #STUB_DO_SAVE_FP, 3f
        add     x1, sp, #STUB_FP
        stp     q0, q1, [x1], #32
        stp     q2, q3, [x1], #32
        stp     q4, q5, [x1], #32
        stp     q6, q7, [x1], #32
        stp     q8, q9, [x1], #32
        stp     q10, q11, [x1], #32
        stp     q12, q13, [x1], #32
        stp     q14, q15, [x1], #32
        stp     q16, q17, [x1], #32
        stp     q18, q19, [x1], #32
        stp     q20, q21, [x1], #32
        stp     q22, q23, [x1], #32
        stp     q24, q25, [x1], #32
        stp     q26, q27, [x1], #32
        stp     q28, q29, [x1], #32
        stp     q30, q31, [x1], #32
        mrs     x2, fpsr
        mrs     x3, fpcr
        stp     w2, w3, [x1]
3:      tbz     x0, #STUB_DO_RETURN, .Lreturn
        mov     x0, #STUB_RETURNED
        b       .Lleave

.Lreturn:
        ldr     x1, [sp, #STUB_THREAD]
        msr     tpidr_el0, x1
        ldp     x1, x2, [sp, #STUB_REGS + 256]
        msr     elr_el1, x1
        msr     spsr_el1, x2
        ldp     x30, x1, [sp, #STUB_REGS + 240]
        msr     sp_el0, x1
        ldp     x28, x29, [sp, #STUB_REGS + 224]
        ldp     x26, x27, [sp, #STUB_REGS + 208]
        ldp     x24, x25, [sp, #STUB_REGS + 192]
        ldp     x22, x23, [sp, #STUB_REGS + 176]
        ldp     x20, x21, [sp, #STUB_REGS + 160]
        ldp     x18, x19, [sp, #STUB_REGS + 144]
        ldp     x16, x17, [sp, #STUB_REGS + 128]
        ldp     x14, x15, [sp, #STUB_REGS + 112]
        ldp     x12, x13, [sp, #STUB_REGS + 96]
        ldp     x10, x11, [sp, #STUB_REGS + 80]
        ldp     x8, x9, [sp, #STUB_REGS + 64]
        ldp     x6, x7, [sp, #STUB_REGS + 48]
        ldp     x4, x5, [sp, #STUB_REGS + 32]
        ldp     x2, x3, [sp, #STUB_REGS + 16]
        ldp     x0, x1, [sp, #STUB_REGS]
        eret
        dsb     nsh                     // no speculation past eret
        isb

        .globl  ramet_stub_end
ramet_stub_end:
        .section .note.GNU-stack, "", %progbits
