// See guarded.hpp. Results: RAX the value, RDX whether it faulted. No function here touches the stack.
        .text
        .globl  ramet_guarded_begin, ramet_guarded_end, ramet_guarded_landing
        .globl  ramet_guarded_copy, ramet_guarded_load, ramet_guarded_store, ramet_guarded_compare_exchange
        .type   ramet_guarded_copy, @function
        .type   ramet_guarded_load, @function
        .type   ramet_guarded_store, @function
        .type   ramet_guarded_compare_exchange, @function

ramet_guarded_begin:

// RDI to, RSI from, RDX bytes. The end is copied by words that overlap what has been copied already.
        .p2align 5
ramet_guarded_copy:
        .cfi_startproc
        endbr64
        cmpq    $16, %rdx
        jb      .Lsmall
        cmpq    $32, %rdx
        jbe     .Ltwo
        cmpq    $512, %rdx              // from here on, starting a string instruction pays
        jae     .Lstring
.Lblocks:                               // 33 to 511 bytes: 32 at a time, then the last 32
        movups  -32(%rsi,%rdx), %xmm2
        movups  -16(%rsi,%rdx), %xmm3
        leaq    -32(%rdi,%rdx), %r8
.Lblock:
        movups  (%rsi), %xmm0
        movups  16(%rsi), %xmm1
        movups  %xmm0, (%rdi)
        movups  %xmm1, 16(%rdi)
        addq    $32, %rsi
        addq    $32, %rdi
        cmpq    %r8, %rdi
        jb      .Lblock
        movups  %xmm2, (%r8)
        movups  %xmm3, 16(%r8)
        xorl    %edx, %edx
        ret
.Lstring:
        movq    -8(%rsi,%rdx), %rax
        leaq    -8(%rdi,%rdx), %r8
        movq    %rdx, %rcx
        shrq    $3, %rcx
        rep movsq
        movq    %rax, (%r8)
        xorl    %edx, %edx
        ret
.Ltwo:                                  // 16 to 32
        movups  (%rsi), %xmm0
        movups  -16(%rsi,%rdx), %xmm1
        movups  %xmm0, (%rdi)
        movups  %xmm1, -16(%rdi,%rdx)
        xorl    %edx, %edx
        ret
.Lsmall:
        cmpl    $8, %edx
        jb      .Lbelow8
        movq    (%rsi), %rax
        movq    -8(%rsi,%rdx), %rcx
        movq    %rax, (%rdi)
        movq    %rcx, -8(%rdi,%rdx)
        xorl    %edx, %edx
        ret
.Lbelow8:
        cmpl    $4, %edx
        jb      .Lbelow4
        movl    (%rsi), %eax
        movl    -4(%rsi,%rdx), %ecx
        movl    %eax, (%rdi)
        movl    %ecx, -4(%rdi,%rdx)
        xorl    %edx, %edx
        ret
.Lbelow4:
        testl   %edx, %edx
        jz      .Ldone
.Lbyte:
        movb    (%rsi), %al
        movb    %al, (%rdi)
        incq    %rsi
        incq    %rdi
        decl    %edx
        jnz     .Lbyte
.Ldone:
        ret                             // RDX is 0
        .cfi_endproc
        .size   ramet_guarded_copy, . - ramet_guarded_copy

        .p2align 4
ramet_guarded_load:
        .cfi_startproc
        endbr64
        movl    (%rdi), %eax
        xorl    %edx, %edx
        ret
        .cfi_endproc
        .size   ramet_guarded_load, . - ramet_guarded_load

        .p2align 4
ramet_guarded_store:
        .cfi_startproc
        endbr64
        movl    %esi, (%rdi)
        xorl    %edx, %edx
        ret
        .cfi_endproc
        .size   ramet_guarded_store, . - ramet_guarded_store

        .p2align 4
ramet_guarded_compare_exchange:
        .cfi_startproc
        endbr64
        movl    %esi, %eax
        lock cmpxchgl %edx, (%rdi)
        xorl    %edx, %edx
        ret
        .cfi_endproc
        .size   ramet_guarded_compare_exchange, . - ramet_guarded_compare_exchange

// One word of a size; see guarded_word.hpp.
        .macro  word name
        .globl  \name
        .type   \name, @function
        .p2align 4
\name:
        .cfi_startproc
        endbr64
        .endm
        .macro  word_end name
        xorl    %edx, %edx
        ret
        .cfi_endproc
        .size   \name, . - \name
        .endm
        .macro  words size load suffix source value result
        word    ramet_guarded_load_\size
        \load   (%rdi), %\result
        word_end ramet_guarded_load_\size
        word    ramet_guarded_store_\size
        mov\suffix %\source, (%rdi)
        word_end ramet_guarded_store_\size
        word    ramet_guarded_exchange_\size
        movq    %rsi, %rax
        lock cmpxchg\suffix %\value, (%rdi)
        word_end ramet_guarded_exchange_\size
        .endm
        words   8 movzbl b sil dl eax
        words   16 movzwl w si dx eax
        words   32 movl l esi edx eax
        words   64 movq q rsi rdx rax
        word    ramet_guarded_load_128
        movups  (%rdi), %xmm0
        movups  %xmm0, (%rsi)
        word_end ramet_guarded_load_128
        word    ramet_guarded_store_128
        movups  (%rsi), %xmm0
        movups  %xmm0, (%rdi)
        word_end ramet_guarded_store_128

// RBX is callee-saved: this function has a landing of its own, which restores it from R10.
        .globl  ramet_guarded_pair_begin, ramet_guarded_pair_end, ramet_guarded_pair_landing
        word    ramet_guarded_exchange_128
        movq    %rbx, %r10
        .cfi_register %rbx, %r10
        movq    %rdx, %r8
        movq    (%rsi), %rax
        movq    8(%rsi), %rdx
        movq    (%r8), %rbx
        movq    8(%r8), %rcx
ramet_guarded_pair_begin:
        lock cmpxchg16b (%rdi)
ramet_guarded_pair_end:
        movq    %rax, (%rsi)
        movq    %rdx, 8(%rsi)
        sete    %al
        movzbl  %al, %eax
        movq    %r10, %rbx
        word_end ramet_guarded_exchange_128

ramet_guarded_end:

        .type   ramet_guarded_pair_landing, @function
ramet_guarded_pair_landing:
        .cfi_startproc
        movq    %r10, %rbx
        movl    $1, %edx
        ret
        .cfi_endproc
        .size   ramet_guarded_pair_landing, . - ramet_guarded_pair_landing

        .type   ramet_guarded_landing, @function
ramet_guarded_landing:
        .cfi_startproc
        movl    $1, %edx
        ret
        .cfi_endproc
        .size   ramet_guarded_landing, . - ramet_guarded_landing
        .section .note.GNU-stack, "", @progbits
