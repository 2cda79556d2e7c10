// Signal-driven I/O, fcntl(2): an open file has an owner, a process, thread or group that is sent a signal when the
// file becomes ready, if O_ASYNC is set. The owner's id is one of the guest's, so the host is never told of it:
// files/async.hpp watches the file, and the signal is sent here.
#pragma once

#include <fcntl.h>

#include <cstdint>
#include <memory>

#include "guest-mm/thread_annotations.hpp"
#include "guest-mm/types.hpp"

namespace ramet::vmm {

class Family;
class Thread;
struct OpenFile;

// Part of the open file description: what dup(2), fork(2) and SCM_RIGHTS share has one owner.
struct FileOwner {
  struct Setting {
    int type = F_OWNER_TID, id = 0;    // as struct f_owner_ex has them; id 0: nobody
    unsigned real = 0, effective = 0;  // user ids of the thread that set the owner; they must be allowed to signal it
    int signal = 0;  // F_SETSIG; 0: SIGIO, without information
    int number = -1;  // the descriptor that O_ASYNC was set by
  };
  mutable Mutex lock;  // guards OpenFile::async as well; order: before AsyncFiles'
  Setting setting RAMET_GUARDED_BY(lock);
};

// F_SETOWN, F_GETOWN, F_SETOWN_EX, F_GETOWN_EX, F_SETSIG, F_GETSIG. Not of a file that was opened with O_PATH.
std::int64_t owner_call(Thread&, OpenFile&, int command, std::uint64_t argument);
// The ioctl(2) calls of the same meaning, which sockets have: FIOSETOWN, SIOCSPGRP, FIOGETOWN, SIOCGPGRP. Others:
// ENOTTY.
std::int64_t owner_ioctl(Thread&, OpenFile&, unsigned request, mm::Gva at);

// Makes the caller's process the owner if the file has none. Signals name the descriptor `number` from now on.
void claim_if_unowned(Thread&, OpenFile&, int number);
// As if the file had never had an owner and F_SETSIG had never been called.
void disown(FileOwner& owner) RAMET_EXCLUDES(owner.lock);

// Pipes, sockets and terminals: only they tell by a signal when they are ready.
bool can_be_async(const OpenFile&);
bool is_async(const OpenFile&);
// Sets or clears O_ASYNC; `number`: the descriptor that the program names. Precondition: can_be_async(). 0 or -errno
// (ENOMEM: no more files can be watched, or the family's limit is reached).
std::int64_t set_async(Family&, OpenFile&, int number, bool on);
// The same by a thread of the guest: a terminal that nobody owns gets its foreground group as the owner.
std::int64_t set_async(Thread&, OpenFile&, int number, bool on);
// A write found no room (`result` is -EAGAIN): the owner of the file will be told of room. Returns result.
std::int64_t no_room(const OpenFile&, std::int64_t result);

// Sends the owner its signal. `reason`: POLL_IN and the like, of sigaction(2).
void tell_owner(Family&, const FileOwner& owner, int reason) RAMET_EXCLUDES(owner.lock);

}  // namespace ramet::vmm
