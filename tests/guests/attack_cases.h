// The cases of attack.c, and what they have in common.
#pragma once

#include "attack.h"

enum { kPrivate = 1 << 20, kSecretWords = 64 };

// What all of the family see.
extern struct shared {
  volatile uint64_t steps;  // of the bystander
  volatile int stop, ready;
  volatile unsigned progress;
  volatile uint64_t found[8];
} * shared;
extern const char* argument;          // a directory that is shared with whoever looks from outside
extern unsigned step;                 // of the bytes that are jumped to
// Memory that this process and the attackers have: kPrivate bytes that nobody changes, and a page behind them, into which
// secrets are written when the attacker has been forked.
extern unsigned char* own;
extern unsigned attempts, ended;      // of attackers; an end without a signal
extern int any_status;                // an attacker may end with any, as it jumps to calls that do so

// What is written after the attacker was forked, so that it is in nothing that the attacker may see. Never in the
// attacker's own memory: it compares word by word.
static inline uint64_t secret(unsigned i) { return (i + 1) * 0x9e3779b97f4a7c15u ^ 0x5ec2e7; }
// Runs it in a child, which is killed after so many seconds (0: never) if it has not ended, and looks at the others
// afterwards. As wait(2) has its status.
int attempt(void (*attack)(void), unsigned seconds);
// The same for many, up to eight of them side by side, so that their waits are one wait: next() is called before each is
// forked, and gives 0 when there is none left. There are no secrets. How each ended is counted, no more.
void attempt_all(int (*next)(void), void (*attack)(void), unsigned seconds);
// Looks at what nobody may have changed, and whether the others go on.
void look(void);

// attack_calls.c
void simple_calls(void), hardened_calls(void), files(void), ends(void), stops(void);
// attack_jumps.c
void jumps(void), signal_stack(void);
// attack_frames.c
void frames(void), never_answers(void);
// attack_contexts.c
void contexts(void), hidden_answers(void);
// x86_64/attack_isa.c, arm64/attack_isa.c: a case that only this instruction set has, if it is called so.
void isa_case(const char* name);
// attack_memory.c
void descriptors(void), full_of_mappings(void), full_of_descriptors(void), before_fork(void), before_exec(void);
int after_exec(void);  // what before_exec() runs; the program's status
