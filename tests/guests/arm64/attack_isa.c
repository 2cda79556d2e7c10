// What attacks on the process machine need of arm64. x86_64/attack_isa.c is the twin.
#define _GNU_SOURCE
#include "attack_cases.h"

#include <asm/sigcontext.h>

__asm__(R"(
	.globl enter, landed_call, landed_loop, landed_trap
enter:	mov	x17, x0
	ldr	x8, [x17]
	ldp	x0, x1, [x17, #8]
	ldp	x2, x3, [x17, #24]
	ldp	x4, x5, [x17, #40]
	ldp	x19, x20, [x17, #56]
	ldp	x21, x22, [x17, #72]
	ldr	x24, [x17, #88]
	ldr	x9, [x17, #96]
	mov	sp, x9
	ldr	x16, [x17, #104]
	br	x16
landed_call: mov x8, #172
	svc	#0
landed_trap: udf #0
landed_loop: b landed_loop

	.globl isa_stub_call, isa_stub_call_end, isa_stub_return, isa_stub_return_end, isa_stub_fails, isa_stub_fails_end
isa_stub_call:
	svc	#0
	mov	x9, sp
	and	x9, x9, #-0x4000
isa_stub_call_end:
isa_stub_return:
	svc	#0
	udf	#0
isa_stub_return_end:
isa_stub_fails:
	mov	x8, #94
	mov	x0, #3
	svc	#0
isa_stub_fails_end:
)");
_Static_assert(RAMET_SAID_SIZE == 0x4000, "isa_stub_call has it");

char* const isa_landed[] = {landed_call, landed_trap};
const unsigned isa_landed_count = sizeof isa_landed / sizeof *isa_landed;

const struct call isa_calls[] = {{"what the stub sets bases by", RAMET_SET_BASE, {0, 0x1234}, 0}};
const unsigned isa_call_count = sizeof isa_calls / sizeof *isa_calls;

// --- frames ---

const size_t isa_frame_bytes = sizeof(ucontext_t);

void isa_set_pc(ucontext_t* uc, uint64_t pc) { uc->uc_mcontext.pc = pc; }
uint64_t isa_frame_at(const struct forged* frame) { return (uint64_t)frame->before; }

int isa_damage(struct forged* frame, unsigned which) {
  ucontext_t* uc = &frame->uc;
  mcontext_t* m = &uc->uc_mcontext;
  struct _aarch64_ctx* first = (struct _aarch64_ctx*)m->__reserved;
  switch (which) {
    case 0: first->magic ^= 1; break;
    case 1: first->size = 0; break;
    case 2: first->size = ~0u; break;
    case 3: first->size -= 8; break;
    case 4: memset(m->__reserved, 0xff, sizeof m->__reserved); break;
    case 5: memset(m->__reserved, 0, sizeof m->__reserved); break;      // no records at all
    case 6: memcpy(m->__reserved + first->size % 2048, first, sizeof(struct fpsimd_context)); break;  // it comes twice
    case 7: {                                                           // the records go on in what it can only read
      struct extra_context* extra = (struct extra_context*)m->__reserved;
      memset(m->__reserved, 0, sizeof m->__reserved);
      *extra = (struct extra_context){.head = {.magic = EXTRA_MAGIC, .size = sizeof *extra}, .datap = RAMET_TOLD, .size = kPage, .__reserved = {0}};
      break;
    }
    case 8: m->pstate = 0x3c5; break;                                   // the kernel's
    case 9: m->pstate = 0x10; break;                                    // 32-bit code
    case 10: m->pstate = ~0ull; break;
    case 11: m->sp = 0x8000000000000000u, isa_set_pc(uc, (uint64_t)landed_call); break;
    case 12: m->sp |= 1, isa_set_pc(uc, (uint64_t)landed_call); break;
    case 13: isa_set_pc(uc, (uint64_t)landed_call + 2); break;
    default: return 0;
  }
  return 1;
}

void isa_case(const char* name) { (void)name; }
