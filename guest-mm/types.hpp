// Addresses, sizes, protections and errors: the vocabulary of guest-mm.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <string_view>

namespace ramet::mm {

using Gpa = std::uint64_t;  // guest-physical address, bytes
using Gva = std::uint64_t;  // guest-virtual address, bytes

inline constexpr unsigned kPageShift = 12;
inline constexpr std::uint64_t kPageSize = 1ull << kPageShift;   // a PTE maps this
inline constexpr std::uint64_t kBlockSize = 1ull << 21;          // a PMD leaf maps this

// [start, end): addresses of either kind, or offsets, in bytes.
struct Range {
  std::uint64_t start = 0, end = 0;
  constexpr bool empty() const { return start == end; }
};

// Pages at consecutive guest-virtual addresses, in consecutive frames; `pages` of 4 KiB.
struct Extent {
  Gva start = 0;
  Gpa frame = 0;
  std::uint64_t pages = 0;
};

constexpr std::uint64_t align_down(std::uint64_t v, std::uint64_t a) { return v & ~(a - 1); }
// Wraps to a small value when v + a overflows; callers bound v first.
constexpr std::uint64_t align_up(std::uint64_t v, std::uint64_t a) { return (v + a - 1) & ~(a - 1); }
constexpr bool is_aligned(std::uint64_t v, std::uint64_t a) { return (v & (a - 1)) == 0; }

// Protection of a region, as mprotect(2) means it.
enum class Prot : std::uint8_t { None = 0, Read = 1, Write = 2, Exec = 4 };
constexpr Prot operator|(Prot a, Prot b) { return Prot(unsigned(a) | unsigned(b)); }
constexpr Prot operator&(Prot a, Prot b) { return Prot(unsigned(a) & unsigned(b)); }
constexpr bool has(Prot p, Prot bits) { return (p & bits) == bits; }
inline constexpr Prot kAllProt = Prot::Read | Prot::Write | Prot::Exec;

// What the guest tried to do with memory.
enum class Access : std::uint8_t { Read, Write, Execute };
constexpr Prot needed(Access a) {
  return a == Access::Read ? Prot::Read : a == Access::Write ? Prot::Write : Prot::Exec;
}

// Every way an operation on guest memory ends other than well. Ordinary outcomes, not accidents.
enum class Error : std::uint8_t {
  NoMemory,      // the VM's memory limit, its table frames or the host's memory ran out   (ENOMEM)
  NotMapped,  // no region covers the address                                           (SEGV_MAPERR, ENOMEM, EFAULT)
  NotPermitted,  // a region covers it, and its protection refuses the access               (SEGV_ACCERR, EACCES)
  BeyondEnd,  // a file-backed page past the end of its file                             (SIGBUS, BUS_ADRERR)
  Invalid,  // misaligned, empty, overflowing or contradictory arguments               (EINVAL)
  Exists,  // MAP_FIXED_NOREPLACE over an existing region                             (EEXIST)
  Io,  // the backing could not be read                                           (EIO, SIGBUS)
  Pinned,  // the frame is pinned; it can be neither moved nor freed                  (EBUSY)
};
[[nodiscard]] std::string_view describe(Error e);

template <class T = void>
using Result = std::expected<T, Error>;
inline std::unexpected<Error> fail(Error e) { return std::unexpected<Error>(e); }

}  // namespace ramet::mm
