// How system calls are defined: each area's file exports a list of (call, handler), and dispatch.cpp joins them into
// one table. The guest's numbers of calls are in its ABI (arch/guest_abi.hpp); SYS_ names are the host's numbers.
#pragma once

#include <array>
#include <cerrno>
#include <cstdint>
#include <span>

#include "arch/calls.hpp"

namespace ramet::vmm {

class Thread;

struct Args {
  std::array<std::uint64_t, 6> v{};
  std::uint64_t operator[](std::size_t i) const { return v[i]; }
  // Arguments that Linux declares as int or unsigned int: the upper half is ignored.
  int i32(std::size_t i) const { return static_cast<int>(v[i]); }
  unsigned u32(std::size_t i) const { return static_cast<unsigned>(v[i]); }
  std::int64_t i64(std::size_t i) const { return static_cast<std::int64_t>(v[i]); }
};

// The result of a host call, with -errno in place of -1.
inline std::int64_t result_of(long r) { return r < 0 ? -static_cast<std::int64_t>(errno) : r; }

// Returns what the guest gets: a value, or -errno. Besides, for calls that a signal interrupted, the
// kernel-internal codes below, which the thread loop turns into EINTR or a restart as Linux does.
using Handler = std::int64_t (*)(Thread&, const Args&);

inline constexpr std::int64_t kRestartSys = -512;      // restart if no handler ran or it has SA_RESTART
inline constexpr std::int64_t kRestartNoIntr = -513;   // restart always
inline constexpr std::int64_t kRestartNoHand = -514;   // restart if no handler ran
inline constexpr std::int64_t kRestartBlock = -516;    // as NoHand, by thread.restart (remaining time)
inline constexpr std::int64_t kNoResult = -600;        // registers were set by the handler (sigreturn)

// The result of a host call that a signal may end: -EINTR becomes a restart.
inline std::int64_t restartable(std::int64_t result) { return result == -EINTR ? kRestartSys : result; }

using arch::Call;

struct Definition {
  Call call;
  Handler handler;
};

std::span<const Definition> memory_calls();    // memory/calls.cpp
std::span<const Definition> placement_calls();  // memory/placement.cpp: move_pages, mbind, get_mempolicy, migrate_pages
std::span<const Definition> memory_lock_calls();  // memory/lock.cpp: mlock, mlockall and their like
std::span<const Definition> sysv_memory_calls();  // memory/sysv.cpp: shmget, shmat, shmdt, shmctl
std::span<const Definition> thread_calls();  // processes/threads.cpp
std::span<const Definition> scheduling_calls();  // processes/scheduling.cpp: nice values, processors, policies
std::span<const Definition> clone_calls();  // processes/clone.cpp: clone, fork, vfork
std::span<const Definition> exec_calls();  // processes/exec.cpp
std::span<const Definition> relation_calls();  // processes/relations.cpp: wait4, waitid, parents, groups, sessions
std::span<const Definition> futex_calls();  // processes/futex.cpp
std::span<const Definition> signal_calls();  // signals/calls.cpp
std::span<const Definition> signalfd_calls();  // signals/signalfd.cpp
std::span<const Definition> time_calls();  // time/calls.cpp
std::span<const Definition> system_calls();  // processes/system.cpp: uname, limits, random, ...
std::span<const Definition> identity_calls();  // processes/identity.cpp: users, groups, capabilities
std::span<const Definition> file_calls();  // files/io.cpp: read, write; and those of table.cpp, open.cpp, control.cpp
std::span<const Definition> path_calls();  // files/path.cpp: stat family, rename, unlink, getdents, ...
std::span<const Definition> event_calls();  // events/calls.cpp: pipes, poll, select, epoll, eventfd, timerfd
std::span<const Definition> socket_calls();  // sockets/sockets.cpp, names.cpp
std::span<const Definition> uring_calls();  // uring/calls.cpp
std::span<const Definition> save_point_calls();  // processes/save_points.cpp: ramet_guest.h's
std::span<const Definition> generation_calls();  // proc/generation.cpp: likewise

// The options of prctl(2) about capabilities; -EINVAL for others. processes/identity.cpp.
std::int64_t identity_prctl(Thread&, const Args&);

// Serves the call that the thread's registers hold, and puts the result into them; deliver_signals() decides on
// restarts. Unknown calls give ENOSYS, and the family counts them.
void dispatch(Thread&);

// "openat", or "syscall_451" for those without a name.
const char* syscall_name(Call);

}  // namespace ramet::vmm
