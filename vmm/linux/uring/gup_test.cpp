// The ioctls of gup_test, as Linux's driver of that name answers them.
#include "vmm/linux/uring/gup_test.hpp"

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <vector>

#include "vmm/linux/checked.hpp"
#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {
namespace {

using Clock = std::chrono::steady_clock;
using Term = mm::AddressSpace::PinTerm;

// The device's interface: what the ioctls take, and their numbers.
struct Sweep {  // pins a range, `pages_per_call` pages at a time, then unpins all of it
  std::uint64_t get_usec, put_usec;             // results
  std::uint64_t address, bytes;                 // result in bytes: how far it came
  std::uint32_t pages_per_call, gup_flags, test_flags;
  std::uint32_t which_pages[8];                 // to be dumped, counted from 1
};
struct LongTermPin {  // Linux: struct pin_longterm_test
  std::uint64_t address, bytes;
  std::uint32_t flags;
};
enum : unsigned {
  kGupFast = _IOWR('g', 1, Sweep),
  kPinFast = _IOWR('g', 2, Sweep),
  kPinLong = _IOWR('g', 3, Sweep),
  kGupBasic = _IOWR('g', 4, Sweep),
  kPinBasic = _IOWR('g', 5, Sweep),
  kDump = _IOWR('g', 6, Sweep),
  kStart = _IOW('g', 7, LongTermPin),
  kStop = _IO('g', 8),
  kRead = _IOW('g', 9, std::uint64_t),
};
constexpr std::uint32_t kFollWrite = 1, kUseWrite = 1, kUseFast = 2;

mm::Access access_of(bool write) { return write ? mm::Access::Write : mm::Access::Read; }

std::uint64_t microseconds(Clock::duration d) {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(d).count());
}

// "Get" and "pin" are the same here: each keeps the pages where they are. So are the fast and the ordinary path.
std::int64_t sweep(Thread& thread, unsigned request, mm::Gva at) {
  auto given = read_user<Sweep>(thread.memory(), at);
  if (!given) return -given.error();
  Sweep& s = *given;
  const auto end = checked_sum(s.address, s.bytes);
  if (!end) return -EINVAL;
  // A range may be larger than the guest's memory if it maps pages repeatedly. This bounds the work for it.
  if (s.bytes > 2 * thread.memory().usage().limit_bytes) return -ENOMEM;
  const Term term = request == kPinLong ? Term::Long : Term::Short;
  mm::Charge charge(thread.memory().account());
  std::vector<mm::Pin> pins;
  auto begin = Clock::now();
  std::uint64_t next = s.address;
  for (std::uint64_t pages = s.pages_per_call; pages && next < *end;) {
    if (thread.process.ending()) return -EINTR;
    const std::uint64_t from = next;
    next = from + std::min(*end - from, pages * mm::kPageSize);
    auto pin = thread.memory().pin(from, next - from, access_of(s.gup_flags & kFollWrite), term);
    if (!pin || !charge.room_for_one(pins)) break;
    pins.push_back(std::move(*pin));
  }
  s.get_usec = microseconds(Clock::now() - begin);
  s.bytes = next - s.address;
  begin = Clock::now();
  pins.clear();
  s.put_usec = microseconds(Clock::now() - begin);
  // Linux writes the pages that kDump names to the kernel's log, which a guest here has none of.
  for (std::uint32_t& page : s.which_pages)
    if (request == kDump && page > s.bytes / mm::kPageSize) page = 0;
  return put_user(thread.memory(), at, s);
}

}  // namespace

std::int64_t GupTest::start(Thread& thread, mm::Gva at) {
  if (pin_) return -EINVAL;
  auto range = read_user<LongTermPin>(thread.memory(), at);
  if (!range) return -range.error();
  if (range->flags & ~(kUseWrite | kUseFast)) return -EINVAL;
  if (!mm::is_aligned(range->address | range->bytes, mm::kPageSize)) return -EINVAL;
  if (range->bytes == 0 || range->bytes > INT64_MAX) return -EINVAL;
  state_of(thread).devices->add(shared_from_this());  // the caller may have inherited the descriptor
  auto pin = thread.memory().pin(range->address, range->bytes, access_of(range->flags & kUseWrite), Term::Long);
  if (!pin) return pin.error() == mm::Error::NoMemory ? -ENOMEM : -EFAULT;
  pin_ = std::move(*pin);
  return 0;
}

// What the pages hold now, wherever the guest's own page table points meanwhile.
std::int64_t GupTest::give_pages(Thread& thread, mm::Gva argument) {
  if (!pin_) return -EINVAL;
  auto to = read_user<std::uint64_t>(thread.memory(), argument);
  if (!to) return -to.error();
  mm::Gva at = *to;
  std::array<std::byte, mm::kPageSize> page;
  for (const mm::HostRange& range : pin_->ranges()) {
    for (std::size_t done = 0; done < range.bytes.size(); done += page.size(), at += page.size()) {
      if (!range.bytes.read(done, page)) return -EFAULT;
      if (!thread.memory().write(at, page)) return -EFAULT;
    }
  }
  return 0;
}

std::int64_t GupTest::ioctl(Thread& thread, unsigned request, mm::Gva argument) {
  switch (request) {
    case kGupFast:
    case kPinFast:
    case kPinLong:
    case kGupBasic:
    case kPinBasic:
    case kDump: return sweep(thread, request, argument);
    case kStart: {
      LockGuard guard(lock_);
      return start(thread, argument);
    }
    case kRead: {
      LockGuard guard(lock_);
      return give_pages(thread, argument);
    }
    case kStop: let_go(); return 0;
    default: return -EINVAL;
  }
}

void GupTest::let_go() {
  LockGuard guard(lock_);
  pin_.reset();
}

OrErrno<std::shared_ptr<OpenFile>> open_gup_test(const Process&, int flags) {
  HostFd host(::epoll_create1(EPOLL_CLOEXEC));  // can be neither read nor written, as the device
  if (!host) return err(errno);
  auto file = make_file(OpenFile::Kind::GupTest, std::move(host), flags & O_ACCMODE, kGupTestPath);
  file->operations = std::make_shared<GupTest>();
  return file;
}

}  // namespace ramet::vmm
