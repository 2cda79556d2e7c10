#include "vmm/linux/files/lease.hpp"

#include <linux/capability.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "vmm/linux/files/owner.hpp"
#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/time/guest_time.hpp"

namespace ramet::vmm {
namespace {

// Whether another open file description leads to the file. A mapping without a descriptor is not seen.
bool others_have_it_open(Family& family, const OpenFile& file, const struct stat& st, bool for_writing) {
  for (const auto& process : family.all()) {
    for (const Descriptor& d : process->files.state().descriptors.list()) {
      const OpenFile* other = d.file.get();
      if (other == &file || other->kind != OpenFile::Kind::File || (other->flags & O_PATH)) continue;
      if (for_writing && (other->flags & O_ACCMODE) == O_RDONLY) continue;
      struct stat theirs;
      if (::fstat(other->host.get(), &theirs) == 0 && theirs.st_dev == st.st_dev && theirs.st_ino == st.st_ino)
        return true;
    }
  }
  return false;
}

}  // namespace

Lease::Lease(std::shared_ptr<Leases> of, const struct stat& st, std::shared_ptr<FileOwner> owner)
    : of_(std::move(of)), device_(st.st_dev), inode_(st.st_ino), owner_(std::move(owner)) {}

Lease::~Lease() {
  LockGuard guard(of_->lock_);
  of_->take_away_locked(*this);
}

void Leases::take_away_locked(Lease& lease) {
  lease.type_ = lease.target_ = F_UNLCK;
  if (std::erase(leases_, &lease) == 0) return;
  disown(*lease.owner_);
  changed_locked();
}

void Leases::changed_locked() {
  count_.store(leases_.size(), std::memory_order_relaxed);
  changes_.fetch_add(1, std::memory_order_relaxed);
  syscall(SYS_futex, &changes_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

std::int64_t Leases::set(Thread& thread, OpenFile& file, int number, int type) {
  struct stat st;
  if (file.flags & O_PATH) return -EBADF;
  if (type != F_RDLCK && type != F_WRLCK && type != F_UNLCK) return -EINVAL;
  if (file.kind != OpenFile::Kind::File || ::fstat(file.host.get(), &st) != 0 || !S_ISREG(st.st_mode)) return -EINVAL;
  const auto who = thread.credentials();
  if (who->user.file != st.st_uid && !who->may(CAP_LEASE)) return -EACCES;
  std::shared_ptr<Lease> lease;  // its destructor takes the lock
  if (type == F_UNLCK) {
    LockGuard guard(lock_);
    if (!file.lease || file.lease->type_ == F_UNLCK) return -EAGAIN;
    take_away_locked(*file.lease);
    lease.swap(file.lease);
    return 0;
  }
  if (type == F_RDLCK && (file.flags & O_ACCMODE) != O_RDONLY) return -EAGAIN;
  auto fresh = std::make_shared<Lease>(shared_from_this(), st, file.owner);
  int before;
  {
    LockGuard guard(lock_);
    const auto in_the_way = [&](const Lease* l) {
      const bool other = l != file.lease.get() && l->device_ == st.st_dev && l->inode_ == st.st_ino;
      return other && (type == F_WRLCK || l->type_ == F_WRLCK || l->target_ == F_UNLCK);
    };
    if (std::ranges::any_of(leases_, in_the_way)) return -EAGAIN;
    // A lease that is being broken is not upgraded.
    if (file.lease && file.lease->type_ != file.lease->target_ && type == F_WRLCK) return -EAGAIN;
    before = file.lease ? file.lease->type_ : F_UNLCK;
    if (before == F_UNLCK && leases_.size() >= kMost) return -ENOLCK;
    if (!file.lease) file.lease = std::move(fresh);
    lease = file.lease;
    if (before == F_UNLCK) leases_.push_back(lease.get());
    lease->type_ = lease->target_ = type;
    changed_locked();
  }
  // Opens from now on see the lease.
  if (others_have_it_open(thread.process.family, file, st, type == F_RDLCK)) {
    LockGuard guard(lock_);
    if (before == F_UNLCK) std::erase(leases_, lease.get());  // as if it had never been: owner and signal stay
    lease->type_ = lease->target_ = before;
    changed_locked();
    return -EAGAIN;
  }
  claim_if_unowned(thread, file, number);
  return 0;
}

int Leases::get(const OpenFile& file) const {
  LockGuard guard(lock_);
  return file.lease ? file.lease->target_ : F_UNLCK;
}

int Leases::wait_for_holders(Thread& thread, const struct stat& st, bool writes, bool at_once) {
  using Clock = std::chrono::steady_clock;
  while (count_.load(std::memory_order_relaxed) > 0) {
    std::vector<std::shared_ptr<const FileOwner>> told;
    std::uint32_t seen;
    std::optional<Clock::time_point> until;
    {
      LockGuard guard(lock_);
      const auto now = Clock::now();
      const int allowed = writes ? F_UNLCK : F_RDLCK;
      const auto forbids = [&](const Lease* l) {
        return l->device_ == st.st_dev && l->inode_ == st.st_ino && (writes || l->type_ == F_WRLCK);
      };
      // Leases that were not given back in time are taken away or downgraded.
      for (Lease* l : std::vector(leases_)) {
        if (l->type_ == l->target_ || l->deadline_ > now) continue;
        if (l->target_ == F_UNLCK) take_away_locked(*l);
        else l->type_ = l->target_, changed_locked();
      }
      for (Lease* l : leases_) {
        if (!forbids(l)) continue;
        if (l->target_ == l->type_) l->deadline_ = now + kBreakTime;
        if (l->target_ == l->type_ || (allowed == F_UNLCK && l->target_ != F_UNLCK)) {
          l->target_ = allowed;
          told.push_back(l->owner_);
        }
        until = until ? std::min(*until, l->deadline_) : l->deadline_;
      }
      seen = changes_.load(std::memory_order_relaxed);
    }
    for (const auto& owner : told) tell_owner(thread.process.family, *owner, POLL_MSG);
    if (!until) return 0;
    if (at_once) return EWOULDBLOCK;
    const timespec deadline = to_timespec(until->time_since_epoch());
    const std::int64_t r = thread.blocking(SYS_futex, reinterpret_cast<std::uint64_t>(&changes_),
                                           FUTEX_WAIT_BITSET_PRIVATE, seen, reinterpret_cast<std::uint64_t>(&deadline),
                                           0, FUTEX_BITSET_MATCH_ANY);
    if (r == -EINTR && thread.should_stop_waiting()) return EINTR;
  }
  return 0;
}

}  // namespace ramet::vmm
