// io_uring through liburing: every operation that is served, what is refused, and what happens when queues are full.
// uring CASE DIRECTORY; `uring --list` names the cases.
#define _GNU_SOURCE
#include "uring.h"

const char* directory;

static const struct {
  const char* name;
  void (*run)(void);
} kCases[] = {{"transfers", transfers}, {"limited", limited}, {"fixed_buffers", fixed_buffers},
              {"fixed_files", fixed_files},
              {"links", links}, {"timeouts", timeouts}, {"polls", polls}, {"overflow", overflow},
              {"completions_without_calls", completions_without_calls}, {"descriptor", descriptor}, {"events", events},
              {"interrupted", interrupted}, {"refused", refused}, {"probes", probes}, {"threads", threads},
              {"end_in_flight", end_in_flight}, {"rings_in_entries", rings_in_entries}};

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "--list") == 0) {
    for (size_t i = 0; i < sizeof kCases / sizeof *kCases; ++i) puts(kCases[i].name);
    return 0;
  }
  if (argc != 3) return 2;
  directory = argv[2];
  for (size_t i = 0; i < sizeof kCases / sizeof *kCases; ++i) {
    if (strcmp(argv[1], kCases[i].name) != 0) continue;
    kCases[i].run();
    return 0;
  }
  return 2;
}
