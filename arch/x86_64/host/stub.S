// The trap stub: all the guest kernel there is, one page of ring-0 code, independent of its address.
// It only reports traps to the VMM (OUT to a port that names the vector) and resumes user code.
// What it relies on:
//  - the VMM never resumes at an OUT, so that KVM's completion of one cannot skip another instruction;
//  - RSP points into the vCPU's own kernel page, set by the interrupt stack table on entry and by the VMM on
//    resume; after SYSCALL, which does not switch the stack, only the `out` runs;
//  - no other register that user code controls is ever an address here.
#if defined(__x86_64__)
  .section .rodata.ramet_stub, "a", @progbits
  .balign 64

  .globl ramet_stub_begin
ramet_stub_begin:
  .set vector, 0
  .rept 32
    .balign 8, 0xf4                 // 0xf4: HLT, never reached
    .if vector == 14                // page fault: RAX passes its address, which only ring 0 can read
      push %rax
      mov %cr2, %rax
    .endif
    out %al, $vector
    .set vector, vector + 1
  .endr

  .balign 8, 0xf4
  .globl ramet_stub_syscall
ramet_stub_syscall:                 // LSTAR
  out %al, $0x20

  // A flush on behalf of other vCPUs. RSP: the linear addresses of RCX (not 0) table pages. RAX: CR3.
  .balign 8, 0xf4
  .globl ramet_stub_flush_only
ramet_stub_flush_only:
  pop %rdi
  lock orb $0, 1(%rdi)              // see ramet_stub_flush
  loop ramet_stub_flush_only
  mov %rax, %cr3
  out %al, $0x21

  // From here on: ways back to user code. If the vCPU is interrupted in here, user code has not run yet.
  // A KVM that shadows the guest's tables does not see what the host writes into them. A guest's store that is not
  // aligned to an entry makes KVM drop its shadow of the whole page. Locked, because the host may be writing the
  // entry with that byte.
  // RSP: RCX linear addresses, then user RDI, RCX, RAX, then the frame that IRETQ takes. RAX: CR3.
  .balign 8, 0xf4
  .globl ramet_stub_flush
ramet_stub_flush:
  pop %rdi
  lock orb $0, 1(%rdi)
  loop ramet_stub_flush
  pop %rdi
  pop %rcx
  .globl ramet_stub_reload          // RSP: user RAX, then the frame. RAX: CR3.
ramet_stub_reload:
  mov %rax, %cr3
  pop %rax
  .globl ramet_stub_resume          // RSP: the frame
ramet_stub_resume:
  iretq

  .balign 8, 0xf4
  .globl ramet_stub_end
ramet_stub_end:
  .section .note.GNU-stack, "", @progbits
#endif
