// From a handler, unwinders find the way back into what the signal interrupted: through the frame on the stack, and by what
// they know of where the handler returns to.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <unwind.h>

#include "check.h"

static void* volatile nowhere;
static sigjmp_buf back;

__attribute__((noinline)) static void interrupted(void) {
  *(volatile int*)nowhere = 1;
  puts("not reached");
}
__attribute__((noinline)) static void caller(void) {
  interrupted();
  puts("not reached either");
}

struct walk {
  int frames, interrupted, caller;  // the number of each one's frame; the handler's is the first
};

static _Unwind_Reason_Code step(struct _Unwind_Context* context, void* argument) {
  struct walk* walk = argument;
  int at_instruction = 0;  // which was interrupted, and not one after a call
  const uintptr_t ip = _Unwind_GetIPInfo(context, &at_instruction);
  const void* function = _Unwind_FindEnclosingFunction((void*)(at_instruction ? ip : ip - 1));
  ++walk->frames;
  if (function == (void*)interrupted) {
    CHECK(at_instruction);
    walk->interrupted = walk->frames;
  }
  if (function == (void*)caller) walk->caller = walk->frames;
  return _URC_NO_REASON;
}

static void on_fault(int signal) {
  (void)signal;
  struct walk walk = {0};
  _Unwind_Backtrace(step, &walk);
  CHECK(walk.interrupted > 1 && walk.caller == walk.interrupted + 1 && walk.frames > walk.caller);
  puts("found what was interrupted, and its caller");
  siglongjmp(back, 1);
}

int main(void) {
  CHECK(signal(SIGSEGV, on_fault) != SIG_ERR);
  if (sigsetjmp(back, 1) == 0) caller();
  return 0;
}
