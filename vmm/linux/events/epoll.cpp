#include "vmm/linux/events/epoll.hpp"

#include <fcntl.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>

#include "vmm/linux/files/charge.hpp"
#include "vmm/linux/files/state.hpp"

namespace ramet::vmm {
namespace {

// The host's descriptor that stands for the guest's `number` in epolls, see OpenFile::Watched. `add`: makes one if
// there is none. Errors: ENOENT, ENOSPC.
OrErrno<int> watched_as(OpenFile& file, int number, bool add) {
  OpenFile::Watched& w = file.watched;
  LockGuard guard(w.lock);
  const auto found = std::ranges::find(w.numbers, number);
  const auto place = static_cast<std::size_t>(found - w.numbers.begin());
  if (found == w.numbers.end()) {
    if (!add) return err(ENOENT);
    if (place > 0) {
      constexpr std::uint64_t kDescriptorBytes = 64;  // in the host's table, and here
      if (file.charged && !file.charged->grow(kDescriptorBytes)) return err(ENOSPC);
      HostFd other(fcntl(file.host.get(), F_DUPFD_CLOEXEC, 0));
      if (!other || beyond_descriptors(other.get())) return err(ENOSPC);
      w.others.push_back(std::move(other));
    }
    w.numbers.push_back(number);
  }
  return place == 0 ? file.host.get() : w.others[place - 1].get();
}

std::int64_t control_host(OpenFile& epoll, OpenFile& target, int number, int operation, epoll_event& event) {
  const auto host = watched_as(target, number, operation == EPOLL_CTL_ADD);
  if (!host) return -host.error();
  constexpr std::uint64_t kWatchBytes = 256;  // struct epitem and its place in a wait queue
  if (operation == EPOLL_CTL_ADD && epoll.charged &&
      !epoll.charged->reserve_entries(epoll.host.get(), "tfd:", 1, kWatchBytes))
    return -ENOSPC;
  return result_of(::epoll_ctl(epoll.host.get(), operation, *host, &event));
}

}  // namespace

std::int64_t control_epoll(OpenFile& epoll, const std::shared_ptr<OpenFile>& target, int number, int operation,
                           epoll_event event) {
  if (target.get() == &epoll) return -EINVAL;
  if (target->operations) target->operations->watch();
  if (!epoll.disarmed) return control_host(epoll, *target, number, operation, event);
  LockGuard guard(epoll.disarmed->lock);
  auto& entries = epoll.disarmed->entries;
  const auto entry = std::ranges::find_if(entries, [&](const Disarmed::Entry& e) {
    return e.number == number && e.file.lock() == target;
  });
  if (entry == entries.end()) return control_host(epoll, *target, number, operation, event);
  if (operation == EPOLL_CTL_ADD) return -EEXIST;
  if (operation == EPOLL_CTL_MOD)
    if (const std::int64_t bad = control_host(epoll, *target, number, EPOLL_CTL_ADD, event)) return bad;
  entries.erase(entry);
  return 0;
}

OrErrno<void> always_ready(OpenFile& file, int number) {
  HostFd ready(::eventfd(1, EFD_CLOEXEC));
  if (!ready || beyond_descriptors(ready.get())) return err(ENFILE);
  constexpr int kNobody = -1;  // the file's own descriptor stands for no number any more
  OpenFile::Watched& w = file.watched;
  LockGuard guard(w.lock);
  const auto place = static_cast<std::size_t>(std::ranges::find(w.numbers, number) - w.numbers.begin());
  if (place > 0) {
    w.others.at(place - 1) = std::move(ready);
    return {};
  }
  w.numbers.at(0) = kNobody;
  w.numbers.push_back(number);
  w.others.push_back(std::move(ready));
  return {};
}

}  // namespace ramet::vmm
