// A hostile guest: what its ways of being hostile have in common. See wild.cpp.
#pragma once

#include <csetjmp>
#include <cstddef>
#include <cstdint>

namespace wild {

// Random numbers; each thread its own.
extern thread_local std::uint64_t state;
std::uint64_t next();
inline std::uint64_t below(std::uint64_t n) { return next() % n; }

// Memory that calls are pointed at, and that they may unmap, protect, move and advise.
extern char* arena;
extern std::size_t arena_bytes;
constexpr std::size_t kPage = 4096;

enum class Style {
  Random,                                       // wild pointers, huge lengths, nonsense
  Extreme,                                      // the ends of their types, in structures as well
  Inherited,                                    // Random, on memory that is laid out once (wild_inherited.cpp)
};

// Numbers of calls, inclusive.
struct Numbers {
  long first, last;
};
// Makes so many calls. Those that wait are ended by an alarm, so it is for one thread of a process.
void run_calls(Style, std::uint64_t calls, Numbers);

// Faults of this thread from now on go to `back`: if (sigsetjmp(back, 1) == 0) touch();
extern thread_local sigjmp_buf back;
void catch_faults();

// Descriptors that calls do not hit by chance.
enum { kOut = 100, kIn, kFile, kPinner, kUring, kPipeOut, kPipeIn };  // kOut, kIn: standard output and input

// wild inherited ...; the exit status.
int inherited(std::uint64_t calls, Numbers);
extern std::uint64_t done, failed;              // calls, by the first process's first thread

}  // namespace wild
