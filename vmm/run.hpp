// Running a program in a microVM: the library behind `ramet run`.
#pragma once

#include <array>
#include <chrono>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmm/counters.hpp"
#include "vmm/error.hpp"
#include "vmm/linux/files/files.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/shell.hpp"
#include "vmm/snapshot/file.hpp"
#include "vmm/snapshot/saving.hpp"

namespace ramet::vmm {

// Looks at the address space: at intervals, on a thread that runs no guest code, and at the end, on the caller's.
struct Observer {
  // `ended`: no guest thread runs any more, and this is the last call. Null: nobody looks.
  std::function<void(const mm::AddressSpace&, bool ended)> look;
  std::chrono::nanoseconds every{0};            // between two looks while the program runs; 0: only at the end
};

struct RunOptions {
  std::string program;
  std::vector<std::string> arguments;           // without argv[0]
  std::vector<std::string> environment;         // "NAME=VALUE"
  std::vector<Share> shares;
  std::string working_directory = "/";          // a guest path; where it is no directory of the guest, /
  std::uint64_t memory_bytes = 512ull << 20;
  std::optional<std::chrono::nanoseconds> timeout;
  bool deny_wx = false;                         // mmap and mprotect refuse writable and executable (EACCES)
  Observer observer;
  std::array<int, 3> standard = {0, 1, 2};      // host descriptors for those of the guest; -1: closed
  // When and where the program is saved; null: it is not.
  std::shared_ptr<snapshot::Saving> saving;
  // The snapshot file to go on from, whose memory the shell has already (snapshot::restore_memory). `program`,
  // `environment` and `working_directory` are the file's then, `arguments` what ramet_guest.h's call hands over.
  std::shared_ptr<const snapshot::File> from;
  unsigned copy = 1;  // the copy's number, which the same call hands over
};

// What a run cost, taken when it is over. Of all processes of the family; `usage` is the first one's alone.
struct Report {
  Ending ending;
  std::string machine;  // "kvm", "process", "process, hardened"
  Machine::Totals exits{};
  mm::Usage usage{};
  // What the VMM holds, and held at most, for what the processes share: open files.
  std::uint64_t family_held_bytes = 0, family_peak_held_bytes = 0;
  Counts memory_counters, device_counters;
  Counts calls, unknown_calls;  // by name, most frequent first
  unsigned threads = 0;  // guest threads that ever ran
  std::chrono::nanoseconds setup{}, run{}, teardown{};
};

// Loads the program into the shell (once per shell) and runs it: its first thread on the caller's. Errors: what the
// program cannot be loaded for, and what the host does not give (threads, memory).
//
// What it does to the calling process: of several runs at a time, the first handles the process's SIGINT, SIGTERM,
// SIGHUP, SIGQUIT, SIGWINCH and SIGCONT, which go to its program, and ignores SIGPIPE. When run() returns, handlers,
// the thread's signal mask, descriptors, timers, umask, working directory and environment are as they were, and its
// threads have ended. What stays: files that the shell's memory maps are open until the shell goes; the soft limit of
// open files is raised (RLIMIT_NOFILE, to 65,536 at most); and the first Shell installs handlers for good, of
// SIGSTKFLT, and of SIGSEGV and SIGBUS, which pass on what is not theirs.
std::expected<Report, Failure> run(Shell&, const RunOptions&);

}  // namespace ramet::vmm
