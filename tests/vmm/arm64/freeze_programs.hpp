// Guest code of process_freeze_test.cpp, in arm64's instructions. Its twin has the same names.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "arch/arm64/user_state.hpp"
#include "arch/process_layout.h"
#include "arch/process_stub.hpp"

// Copied into guests.
asm(R"(
	.pushsection .rodata
	.balign 4
	.globl process_freeze_programs, process_freeze_programs_end
	.globl process_freeze_count, process_freeze_lie, process_freeze_hide
process_freeze_programs:
	// Adds 1 to a word in each of Times pages from Place on, and makes a call.
1:	ldr	x9, [x1]
	add	x9, x9, #1
	str	x9, [x1]
	add	x1, x1, #4096
	subs	x2, x2, #1
	b.ne	1b
	svc	#0
	// Counts in Count, in the word at Place and in a vector register, which stay the same.
process_freeze_count:
	add	x0, x0, #1
	str	x0, [x1]
	fmov	d5, x0
	ldr	x9, [x1]
	cmp	x9, x0
	b.ne	2f
	fmov	x9, d5
	cmp	x9, x0
	b.eq	process_freeze_count
2:	udf	#0
	// Says for the mapper that it has done whatever it is told. Offsets are those of process_layout.h.
process_freeze_lie:
	add	x10, x4, #8
1:	ldar	w9, [x3]
	str	wzr, [x4, #4]
	stlr	w9, [x10]
	stlr	w9, [x4]
	b	1b
	// The same, and that this thread has trapped. Adds 1 to the word at Hidden.
process_freeze_hide:
	add	x10, x4, #8
1:	ldar	w9, [x5]
	stlr	w9, [x6]
	ldar	w9, [x3]
	str	wzr, [x4, #4]
	stlr	w9, [x10]
	stlr	w9, [x4]
	ldr	x9, [x7]
	add	x9, x9, #1
	str	x9, [x7]
	b	1b
process_freeze_programs_end:
	.popsection
)");
static_assert(TOLD_GO == 0 && SAID_DONE == 0 && SAID_SLEEPS == 4 && SAID_APPLIED == 8);
extern "C" const std::byte process_freeze_programs[], process_freeze_programs_end[], process_freeze_count[],
    process_freeze_lie[], process_freeze_hide[];

namespace ramet::vmm {

struct FreezePrograms {
  using enum arch::arm64::Register;
  // Registers, by what the programs above use them for.
  static constexpr unsigned Count = X0, Place = X0 + 1, Times = X0 + 2, MapperTold = X0 + 3, MapperSaid = X0 + 4,
                            OwnTold = X0 + 5, OwnSaid = X0 + 6, Hidden = X0 + 7;

  // Has code of the stub's page make that call and store the result in an area at `said`; then the stub looks for its
  // list at an unmapped address.
  static void prepare_stub_call(arch::UserRegs& r, std::uint64_t number, const std::array<std::uint64_t, 6>& a,
                                std::uint64_t said) {
    r[X8] = number;
    for (unsigned n = 0; n < a.size(); ++n) r[X0 + n] = a[n];
    r[X0 + 19] = said, r[Sp] = said + 16, r[X0 + 20] = 8, r[X0 + 22] = 0;
    r[Pc] = arch::process_stub::at(ramet_process_stub_command) - arch::arm64::kSyscallLength;
  }
};

}  // namespace ramet::vmm
