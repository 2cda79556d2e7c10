// What a snapshot file keeps of a process besides its pages, as plain data, and its form in the file (JSON). Whoever
// reads it from a file checks every value before it is used: see restore.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/error.hpp"

namespace ramet::vmm::snapshot {

struct SignalActionState {
  std::uint64_t handler = 0, flags = 0, restorer = 0, mask = 0;
};

// Credentials of a thread that has changed those it started with.
struct CredentialsState {
  std::array<std::uint32_t, 4> user{}, group{};    // real, effective, saved, file
  std::vector<std::uint32_t> groups;
  std::array<std::uint64_t, 5> capabilities{};     // inheritable, permitted, effective, bounding, ambient
  std::uint32_t securebits = 0;
};

struct ThreadState {
  int tid = 0;
  std::string name;
  std::vector<std::uint64_t> regs, bases;          // those words of UserRegs and Bases that the instruction set has
  std::string fp;                                  // FpState, hexadecimal, without zeroes at its end
  std::uint64_t clear_child_tid = 0, robust_list = 0;
  std::uint64_t blocked = 0;                       // signals
  std::vector<std::string> pending;                // siginfo_t, hexadecimal
  std::uint64_t altstack = 0, altstack_size = 0;
  int altstack_flags = 0;
  int nice = 0;
  int policy = 0, priority = 0;                    // Scheduling's
  bool reset_on_fork = false;
  unsigned io_priority = 0;
  std::vector<CredentialsState> credentials;       // none: those that a program starts with
};

// FileOwner of a file that has one.
struct OwnerState {
  int type = 0, id = 0;
  std::uint32_t real = 0, effective = 0;
  int signal = 0, number = -1;
  bool async = false;                              // O_ASYNC
};

// What a timerfd is set to.
struct TimerFdState {
  int clock = 0;
  // Seconds, nanoseconds: until it runs out next (0: it is not armed), and from then on.
  std::array<std::int64_t, 2> left{}, interval{};
  std::uint64_t expired = 0;                       // expirations that have not been read
  bool absolute = false;                           // `left` is the time of CLOCK_REALTIME at which it runs out
  bool cancelled_by_set = false;                   // TFD_TIMER_CANCEL_ON_SET
};

// An entry of an epoll instance.
struct WatchState {
  int fd = 0, file = 0;                            // by which descriptor it was added; index into files
  std::uint32_t events = 0;                        // as epoll_ctl(2) has them; nothing to wait for: it has fired
  std::uint64_t data = 0;
};

// A file that is open or mapped: it is opened again by its path, or, if it has none, made anew as its kind says.
struct FileState {
  int kind = 0;                                    // OpenFile::Kind
  int standard = -1;                               // 0, 1, 2: ramet's own standard input, output, error
  std::string path;                                // of the guest; empty: nobody else can open it
  int flags = 0;  // open(2)'s, those that matter later: in the file the program's values,
                  // in a File's state() the host's
  std::int64_t offset = 0;
  std::uint64_t device = 0, inode = 0, size = 0;
  std::int64_t modified = 0;  // ns since 1970
  std::vector<OwnerState> owner;  // none: as a file that was just opened
  std::uint64_t count = 0;  // of an eventfd
  bool semaphore = false;  // of an eventfd
  std::uint64_t mask = 0;  // of a signalfd
  int pipe = -1;  // of a pipe's end: index into pipes
  std::vector<TimerFdState> timer;  // of a timerfd: one
  std::vector<WatchState> watches;  // of an epoll instance
};

// A pipe that lies within the program.
struct PipeState {
  int bytes = 0;  // it can hold
  std::vector<std::string> contents;  // hexadecimal: packets, or all of it
};

struct DescriptorState {
  int fd = 0, file = 0;  // file: index into files
  bool close_on_exec = false;
};

struct MappingState {
  int file = 0;
  bool shared = false;
  std::uint64_t offset = 0, length = 0;  // of shared ones: what of the file is mapped
};

struct RegionState {
  std::uint64_t start = 0, end = 0;
  int prot = 0, max_prot = 0, huge = 0;
  bool shared = false, grows_down = false, dont_fork = false, wipe_on_fork = false, locked = false;
  int mapping = -1;  // index into mappings; -1: anonymous
  std::uint64_t offset = 0;
  std::string name;
};

struct ProcessorState {
  std::string model, features;
  std::uint64_t fp_components = 0;  // FpFormat
  std::uint32_t fp_bytes = 0;
};

struct ProcessState {
  std::string when;  // "first-read", or the name that the program gave
  bool at_hook = false;  // the first thread of `threads` made the call
  std::string parent;  // path of the parent file; empty: none
  std::vector<std::string> shares;  // for people: what the program saw of the host's files
  ProcessorState processor;
  int pid = 0;
  std::uint64_t generation = 0;  // snapshots that it had come through before this one
  int generation_signal = 0;  // by which its copies are told; 0: by none
  std::vector<ThreadState> threads;  // the one that came to the point is the first
  std::vector<SignalActionState> actions;  // of signals 1, 2, ...
  std::vector<std::string> pending;
  std::vector<std::array<std::uint64_t, 2>> limits;
  bool deny_wx = false;
  int oom_adjustment = 0, oom_least = 0;  // Process::Oom
  int umask = -1;  // -1: the host's
  std::string directory;  // the working directory
  std::vector<std::array<std::int64_t, 4>> timers;  // ITIMER_*: value and interval, as itimerspec has them
  std::vector<std::array<std::int64_t, 2>> clocks;  // Clocks::Now: seconds, nanoseconds
  std::string executable;
  int executable_file = -1;
  std::vector<std::string> arguments, environment;
  std::vector<std::array<std::uint64_t, 2>> auxv;
  std::uint64_t stack_top = 0, stack_limit = 0, brk_start = 0, brk = 0;
  unsigned lock_to_come = 0;  // Image's
  std::uint64_t memory_bytes = 0, mmap_top = 0;
  std::vector<FileState> files;
  std::vector<PipeState> pipes;
  std::vector<DescriptorState> descriptors;
  std::vector<MappingState> mappings;
  std::vector<RegionState> regions;
};

// Errors: some name in it is not UTF-8.
std::expected<std::string, Failure> to_text(const ProcessState&);
// Errors: it is not what to_text() makes.
std::expected<ProcessState, Failure> from_text(std::string_view);

std::string to_hex(std::span<const std::byte>);
// Writes the bytes to the start of `out`. False: the text is not hexadecimal, or its bytes do not fit.
bool from_hex(std::string_view, std::span<std::byte> out);

// Whether a list of that size has it.
inline bool index_ok(int index, std::size_t size) { return index >= 0 && static_cast<std::size_t>(index) < size; }

}  // namespace ramet::vmm::snapshot
