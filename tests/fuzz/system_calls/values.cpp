#include "tests/fuzz/system_calls/values.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace ramet::fuzz {
namespace {

constexpr Gva kPlaces[] = {kBuffer, kNone, kReadOnly, kSharedMemory, kSharedFile, kSharedFile + kPageSize, kPrivateFile,
                           kCodePage, kPinned, kHole, kBlock, kBlock + mm::kBlockSize, kRing, kRingEntries, kStack,
                           kSharedReadOnly, kSharedReadOnly + kPageSize, kPinned + kPageSize};
constexpr Word kAway[] = {0, 1, 7, 8, kPageSize - 1, kPageSize - 4, kPageSize - 8, kPageSize, 2 * kPageSize - 16,
                          mm::kBlockSize - kPageSize, mm::kBlockSize - 1, 0x10000 - 8};
constexpr Gva kFarPlaces[] = {0, 1, 0xfff, 0x10000, 0x7fff'ffff'efff, 0x7fff'ffff'f000, 0x7fff'ffff'ffff, 0x8000'0000'0000,
                              0xffff'8000'0000'0000, 0xffff'ffff'8000'0000, ~0ull, ~0ull - 7, 0x7fff'ffff'eff8,
                              0xffff'ffff'ffff'f000};
constexpr Word kExtremes[] = {0, 1, ~0ull, 0x7fff'ffff, 0x8000'0000, 0xffff'ffff, 0x1'0000'0000, INT64_MAX,
                              1ull << 63, (1ull << 63) + 1, INT64_MAX - 1, 4095, 4096, 4097, 65535, 65536, 1u << 20, 1u << 21,
                              999'999'999, 1'000'000'000, 999'999, 1'000'000, INT64_MAX / 1'000'000'000,
                              INT64_MAX / 1'000'000, INT64_MAX / 1000, 0x7fff'f000, ~0ull << 31, ~0ull - 1, 1ull << 62, 1ull << 47};

constexpr const char* kPaths[] = {
    "a", "b", "/w/a", "/w/b", "/w/c", "d", "d/x", "/w/d", "/w/d/x", "/w/d/y", "/w/e", "/w/e/f", "/w/link", "/w/loop", "/w/out",
    "/w/outside", "/w/away", "/w/map", "/w/prog", "/w/script", "/w/interpreted", "/w/bad", "/w/fifo", "/w/socket", "/w", "/",
    ".", "..", "", "/w/", "/w/a/", "//w//a", "/w/./d/../a", "../canary", "/w/../../canary", "/w/d/../../canary", "/w/outside/canary",
    "/r", "/r/file", "/r/new", "/r/up", "/tmp", "/tmp/x", "/tmp/y", "/var/tmp/z", "/dev", "/dev/shm/s", "/dev/null", "/dev/zero",
    "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/fd", "/dev/fd/3", "/dev/stdin", "/dev/stdout", "/dev/pts",
    "/proc", "/proc/self", "/proc/thread-self", "/proc/self/maps", "/proc/self/cmdline", "/proc/self/environ", "/proc/self/stat",
    "/proc/self/statm", "/proc/self/status", "/proc/self/auxv", "/proc/self/comm", "/proc/self/cgroup", "/proc/self/mounts",
    "/proc/self/mountinfo", "/proc/self/limits", "/proc/self/exe", "/proc/self/cwd", "/proc/self/cwd/..", "/proc/self/root",
    "/proc/self/root/../..", "/proc/self/fd", "/proc/self/fd/3", "/proc/self/fd/4", "/proc/self/fd/4/../../canary", "/proc/self/fd/5",
    "/proc/self/fd/7", "/proc/self/fd/15", "/proc/self/fd/99999999999", "/proc/self/fd/-1", "/proc/self/task", "/proc/self/task/1000",
    "/proc/self/task/1000/stat", "/proc/1000", "/proc/1000/fd", "/proc/1001/status", "/proc/1", "/proc/meminfo", "/proc/cpuinfo",
    "/proc/stat", "/proc/uptime", "/proc/loadavg", "/proc/version", "/proc/filesystems", "/proc/mounts", "/proc/sys",
    "/proc/sys/kernel/osrelease", "/proc/sys/kernel/pid_max", "/proc/sys/kernel/random/uuid", "/proc/sys/vm/max_map_count", "/sys",
    "/sys/devices/system/cpu/online", "/sys/devices/system/cpu/cpu0", "/sys/devices/system/cpu", "/sys/kernel/debug/gup_test",
    "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/self/map_files", "/proc/self/mem", "/etc/passwd", "/w/a/b/c", "/nowhere/x"};
constexpr const char* kTexts[] = {"", "x", "user.a", "user.b", "system.posix_acl_access", "security.capability", "trusted.x", "memory",
                                  "a name that is longer than it may be, to the end of the line and a little beyond that, and then some: "
                                  "two hundred and fifty-five bytes are most that Linux takes, and this goes on for some more than those, "
                                  "so that the call has to refuse it as it should be refused."};

}  // namespace

std::uint8_t Values::u8() {
  if (bytes_.empty()) return 0;
  std::uint8_t b = bytes_.front();
  bytes_ = bytes_.subspan(1);
  return b;
}

Word Values::little_endian(int n) {
  Word w = 0;
  for (int i = 0; i < n; ++i) w |= static_cast<Word>(u8()) << 8 * i;
  return w;
}

Word Values::scalar() {
  const std::uint8_t b = u8();
  if (b < 0x50) return b;
  if (b < 0x80) return kExtremes[b % std::size(kExtremes)];
  if (b < 0x90) return little_endian(2);
  if (b < 0xa0) return little_endian(4);
  if (b < 0xa8) return little_endian(8);
  if (b < 0xc0) return pointer();
  if (b < 0xd0) return fd();
  if (b < 0xd8) return id();
  if (b < 0xe0) return recent_[b % std::size(recent_)];
  if (b < 0xf0) return 0 - static_cast<Word>(b & 0xf);
  return 1ull << (u8() % 64);
}

Word Values::extreme(std::uint8_t b) { return kExtremes[b % std::size(kExtremes)]; }

Word Values::fd() {
  const std::uint8_t b = u8();
  if (b < 0x90) return b % 24;
  if (b < 0xe8) return opened_[b % std::size(opened_)];
  if (b < 0xf4) return b % 64;
  constexpr Word kBad[] = {~0ull, static_cast<Word>(AT_FDCWD), 0x7fff'ffff, 4095, 4096, 0x8000'0000, 1ull << 32, 1000};
  return kBad[b % std::size(kBad)];
}

Word Values::id() {
  const std::uint8_t b = u8();
  if (b < 0x40) return kFirstId + b % 4;
  if (b < 0x80) return 0;
  if (b < 0xa0) return ~0ull;
  if (b < 0xc0) return 0 - static_cast<Word>(kFirstId + b % 4);
  if (b < 0xe0) return recent_[b % std::size(recent_)];
  return extreme(b);
}

Word Values::size() {
  const std::uint8_t b = u8();
  constexpr Word kSizes[] = {0, 1, 8, 16, 100, 2, 110, 255, 512, kPageSize, 2 * kPageSize, 16 * kPageSize, 3 * kPageSize + 5,
                             mm::kBlockSize, 2 * mm::kBlockSize, 1 << 20, 8 << 20, 16 << 20};
  if (b < 0xc0) return kSizes[b % std::size(kSizes)];
  if (b < 0xe0) return b & 0x1f;
  return scalar();
}

Gva Values::pointer() {
  const std::uint8_t b = u8();
  if (b < 0x70) return room(256);
  if (b < 0xe8) return kPlaces[b % std::size(kPlaces)] + pick(kAway);
  if (b < 0xf8) return pick(kFarPlaces);
  return extreme(u8());
}

Gva Values::page() {
  const std::uint8_t b = u8();
  if (b < 0xa0) return kPlaces[b % std::size(kPlaces)] + (b & 1 ? 0 : kPageSize * (u8() & 15));
  if (b < 0xb0) return 0;
  if (b < 0xc0) return kBlock + kPageSize * little_endian(2);
  if (b < 0xd8) return mm::align_down(recent_[b % std::size(recent_)], kPageSize);
  return pointer();
}

Gva Values::room(Word bytes) {
  if (next_ + bytes > part_ + kPartBytes) next_ = part_;
  return std::exchange(next_, mm::align_up(next_ + bytes, 16));
}

Gva Values::put(std::span<const std::byte> data) {
  const Gva at = room(data.size());
  (void)memory_->write(at, data);
  return at;
}

Gva Values::path() {
  if (wrong()) return pointer();
  const std::uint8_t b = u8();
  if (b < 0xf0) return put(std::string(kPaths[b % std::size(kPaths)]));
  if (b < 0xf8) return put(std::string(kPaths[u8() % std::size(kPaths)]) + "/" + kPaths[u8() % std::size(kPaths)]);
  if (b < 0xfa) return put(std::string(u8() * 17u, 'n'));
  std::string raw(u8() % 32, 0);
  for (char& c : raw) c = static_cast<char>(u8());
  return put(raw);
}

Gva Values::iov(unsigned& number) {
  number = u8() % 6;
  std::vector<Word> words;
  for (unsigned i = 0; i < number; ++i) words.push_back(pointer()), words.push_back(size());
  return put_all(words);
}

Gva Values::message() {
  if (wrong()) return pointer();
  std::vector<std::uint32_t> control;
  for (unsigned n = u8() % 3; n > 0; --n) {
    const unsigned fds = u8() % 5;
    const bool odd = wrong();
    const Word length = odd ? scalar() : 16 + fds * 4;
    control.push_back(static_cast<std::uint32_t>(length));
    control.push_back(static_cast<std::uint32_t>(length >> 32));
    control.push_back(odd ? static_cast<std::uint32_t>(scalar()) : SOL_SOCKET);
    control.push_back(odd ? static_cast<std::uint32_t>(scalar()) : 1 + u8() % 2);
    for (unsigned i = 0; i < fds; ++i) control.push_back(static_cast<std::uint32_t>(fd()));
    if (control.size() % 2) control.push_back(0);
  }
  const Gva controls = put_all(control);
  unsigned pieces;
  const Gva iovs = iov(pieces);
  const bool odd = wrong();
  const std::vector<Word> header{u8() & 1 ? socket_name() : 0, odd ? scalar() : 110, iovs, odd ? scalar() : pieces, controls,
                                 odd ? scalar() : std::max<Word>(control.size() * 4, (u8() & 1) * 64), 0};
  return put_all(header);
}

Gva Values::socket_name() {
  if (wrong()) return pointer();
  sockaddr_un address{};
  address.sun_family = static_cast<sa_family_t>(wrong() ? scalar() : AF_UNIX);
  constexpr const char* kNames[] = {"\0abstract", "/w/socket", "/w/sock2", "socket", "/w/a", "/w/out", "\0\0", "/tmp/s", "", "/w/link"};
  const std::uint8_t b = u8();
  std::memcpy(address.sun_path, kNames[b % std::size(kNames)], b % std::size(kNames) == 0 ? 9 : std::strlen(kNames[b % std::size(kNames)]));
  return put(std::as_bytes(std::span(&address, 1)));
}

Gva Values::strings() {
  if (wrong()) return u8() & 1 ? 0 : pointer();
  std::vector<Word> list;
  for (unsigned n = u8() % 4; n > 0; --n) list.push_back(wrong() ? pointer() : put(std::string(u8() * (u8() % 8), 's')));
  list.push_back(0);
  return put_all(list);
}

Gva Values::times() {
  const std::uint8_t b = u8();
  if (b < 0x10) return 0;
  if (b >= 0xf4) return pointer();
  constexpr Word kTimes[] = {0, 0, 1, 1000, 999'999'999, 1'000'000'000, ~0ull, INT64_MAX, 1ull << 63, INT64_MAX / 1'000'000'000, 999'999,
                             1'000'000, (1ull << 30) - 1, (1ull << 30) - 2, INT64_MAX - 1, 1ull << 32, 0x7fff'ffff};
  std::vector<Word> words;
  for (int i = 0; i < 4; ++i) words.push_back(wrong() ? scalar() : pick(kTimes));
  return put_all(words);
}

Gva Values::action() {
  if (wrong()) return pointer();
  constexpr Gva kHandlers[] = {kHandler, 0, 1, kHandler, kHandler, kHole};
  constexpr Word kFlags[] = {SA_NOCLDSTOP, SA_NOCLDWAIT, SA_SIGINFO, SA_ONSTACK, SA_RESTART, SA_NODEFER, 0x8000'0000, 0x800};
  Word flags = 0x0400'0000;  // SA_RESTORER
  for (unsigned n = u8() % 3; n > 0; --n) flags ^= pick(kFlags);
  return put_all(std::vector<Word>{wrong() ? scalar() : pick(kHandlers), flags, kRestorer, set_value()});
}

Word Values::set_value() {
  const std::uint8_t b = u8();
  if (b < 0x40) return 0;
  if (b < 0x60) return ~0ull;
  if (b < 0xc0) return 1ull << (b % 64);
  return (1ull << (u8() % 64)) | (1ull << (u8() % 64));
}

Word Values::value(const Shape& s) {
  switch (s.kind) {
    case Shape::None: return 0;
    case Shape::Scalar: return scalar();
    case Shape::Fd: return fd();
    case Shape::DirFd: {
      const std::uint8_t b = u8();
      return b < 0xa0 ? static_cast<Word>(AT_FDCWD) : b < 0xd0 ? 4 : fd();
    }
    case Shape::Id: return id();
    case Shape::Signal: return wrong() ? scalar() : u8() % 66;
    case Shape::Size: return size();
    case Shape::Count: return wrong() ? scalar() : std::exchange(count_, 4);
    case Shape::Offset: return offset();
    case Shape::Mode: return u8() & 1 ? 0777 : little_endian(2);
    case Shape::Pointer: return pointer();
    case Shape::Page: return page();
    case Shape::Path: return path();
    case Shape::Text: return wrong() ? pointer() : put(std::string(pick(kTexts)));
    case Shape::Strings: return strings();
    case Shape::Iov: {
      if (wrong()) return pointer();
      unsigned n;
      const Gva at = iov(n);
      count_ = n;
      return at;
    }
    case Shape::Message: return message();
    case Shape::SocketName: return u8() < 0x40 ? 0 : socket_name();
    case Shape::Set: return wrong() ? pointer() : put_all(std::vector<Word>{set_value()});
    case Shape::Times: return times();
    case Shape::Action: return action();
    case Shape::Words: {
      if (wrong()) return pointer();
      std::vector<Word> words;
      for (Word i = 0; i < s.number; ++i) words.push_back(scalar());
      return put_all(words);
    }
    case Shape::Ints: {
      if (wrong()) return pointer();
      std::vector<std::uint32_t> ints;
      for (Word i = 0; i < s.number; ++i) ints.push_back(static_cast<std::uint32_t>(scalar()));
      return put_all(ints);
    }
    case Shape::Flags: {
      const std::uint8_t b = u8();
      if (b >= 0xf4) return scalar();
      Word flags = 0;
      for (unsigned n = b % 4; n > 0; --n) flags |= pick(s.values);
      return flags;
    }
    case Shape::OneOf: return wrong() ? scalar() : pick(s.values);
    case Shape::Fixed: return s.number;
  }
  return 0;
}

}  // namespace ramet::fuzz
