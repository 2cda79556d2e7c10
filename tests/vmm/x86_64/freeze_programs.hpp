// Guest code of process_freeze_test.cpp, in x86-64's instructions. Its twin has the same names.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "arch/process_layout.h"
#include "arch/process_stub.hpp"
#include "arch/x86_64/user_state.hpp"

// Copied into guests.
asm(R"(
	.pushsection .rodata
	.globl process_freeze_programs, process_freeze_programs_end
	.globl process_freeze_count, process_freeze_lie, process_freeze_hide
process_freeze_programs:
	# Adds 1 to a word in each of Times pages from Place on, and makes a call.
1:	incq	(%rdi)
	add	$4096, %rdi
	dec	%rsi
	jne	1b
	syscall
	# Counts in Count, in the word at Place and in a vector register, which stay the same.
process_freeze_count:
	inc	%rax
	mov	%rax, (%rdi)
	movq	%rax, %xmm5
	cmp	%rax, (%rdi)
	jne	2f
	movq	%xmm5, %rcx
	cmp	%rax, %rcx
	je	process_freeze_count
2:	ud2
	# Says for the mapper that it has done whatever it is told. Offsets are those of process_layout.h.
process_freeze_lie:
	mov	(%rdi), %eax
	movl	$0, 4(%rsi)
	mov	%eax, 8(%rsi)
	mov	%eax, (%rsi)
	jmp	process_freeze_lie
	# The same, and that this thread has trapped. Adds 1 to the word at Hidden.
process_freeze_hide:
	mov	(%r13), %eax
	mov	%eax, (%rbx)
	mov	(%rdi), %eax
	movl	$0, 4(%rsi)
	mov	%eax, 8(%rsi)
	mov	%eax, (%rsi)
	incq	(%r8)
	jmp	process_freeze_hide
process_freeze_programs_end:
	.popsection
)");
static_assert(TOLD_GO == 0 && SAID_DONE == 0 && SAID_SLEEPS == 4 && SAID_APPLIED == 8);
extern "C" const std::byte process_freeze_programs[], process_freeze_programs_end[], process_freeze_count[],
    process_freeze_lie[], process_freeze_hide[];

namespace ramet::vmm {

struct FreezePrograms {
  using enum arch::x86_64::Register;
  // Registers, by what the programs above use them for.
  static constexpr unsigned Pc = Rip, Place = Rdi, Times = Rsi, Count = Rax, MapperTold = Rdi, MapperSaid = Rsi,
                            Hidden = R8, OwnTold = R13, OwnSaid = Rbx;

  // Has code of the stub's page make that call and store the result in an area at `said`; then the stub looks for its
  // list at an unmapped address.
  static void prepare_stub_call(arch::UserRegs& r, std::uint64_t number, const std::array<std::uint64_t, 6>& a,
                                std::uint64_t said) {
    r[Rax] = number, r[Rdi] = a[0], r[Rsi] = a[1], r[Rdx] = a[2], r[R10] = a[3], r[R8] = a[4], r[R9] = a[5];
    r[Rbx] = said, r[Rsp] = said + 8, r[R12] = 0, r[R13] = 8;
    r[Rip] = arch::process_stub::at(ramet_process_stub_command) - arch::x86_64::kSyscallLength;
  }
};

}  // namespace ramet::vmm
