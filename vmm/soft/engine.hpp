// One software processor for arm64 user code, as the machine uses it: a recompiler (dynarmic) with what it keeps of the
// guest's page tables. The room has no need of the recompiler's libraries, which take longer to load than a guest to
// start and may be missing: programs that are to run such guests link ramet::soft and call provide_soft_engines().
//
// What an engine keeps, all of it filled on the way as guest code needs it, from what its Memory says:
//   table   host addresses of pages that may be read and written, looked at by translated code itself
//   others  that, and of pages that are only read or whose memory may vanish (files that the host truncates), for its
//           callbacks
//   code    translated from pages that may be executed; stores do not change it
// forget() and forget_code() take away. An engine belongs to one thread at a time, but for halt() and has_code().
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "arch/guarded.hpp"
#include "arch/user_state.hpp"
#include "guest-mm/types.hpp"

namespace ramet::vmm::soft {

// Of a guest's addresses; see GuestAbi::user_end.
inline constexpr unsigned kAddressBits = 39;

// Guest memory as its page tables show it. Called on the engine's thread, in the middle of an instruction.
class Memory {
 public:
  using Access = mm::Access;
  // Pages that are mapped in the same way, around the one that was asked for.
  struct Run {
    std::uint64_t start = 0, end = 0;  // guest addresses, page-aligned
    std::byte* host = nullptr;  // of `start`
    std::uint64_t frame = 0;  // of `start`
    bool write = false;
    bool lasting = false;  // its memory is there as long as the guest is: it need not be touched with care
    // Set if the contents may change while they can be executed, as in memory that is shared and written. The same
    // frame of the same bank has the same contents, whichever guest shows it.
    std::weak_ptr<const void> bank;
  };
  // `reach`: how far to either side is of use, bytes. Nothing: not mapped, not allowed, or yet to be brought.
  virtual std::optional<Run> look(std::uint64_t page, Access, std::uint64_t reach) = 0;
  // Called by bind() for a page that the engine has code of: maps the page if the program may execute it.
  virtual void want_code(std::uint64_t page) = 0;

 protected:
  ~Memory() = default;
};

struct Stop {
  enum class Kind : std::uint8_t {
    Halted,  // halt() was called
    Syscall,  // SVC; the program counter is past it
    Fault,  // `address` cannot be accessed like that; the instruction has had no effect
    Undefined,  // no instruction of this processor; the program counter is at it
    Breakpoint,  // BRK, likewise
    Misaligned,  // `address`, of an access that must be aligned; the instruction has had no effect
    Vanished,  // memory of `address` is gone in the host; the instruction has had no effect
    Maintained,  // IC IVAU of `address`: others must drop their code of it before this one goes on
  } kind = Kind::Halted;
  std::uint64_t address = 0;
  Memory::Access access = Memory::Access::Read;
};

// A part of a frame.
struct CodePiece {
  std::uint64_t frame;
  unsigned offset, bytes;
};

class Engine {
 public:
  virtual ~Engine() = default;

  // From now on the engine runs this guest, whose program is loaded. Translated code stays if this guest has the same
  // instructions at the same address.
  virtual void bind(Memory&) = 0;
  // The guest goes; the engine is not run until the next bind().
  virtual void unbind() = 0;

  virtual void load(const arch::UserRegs&) = 0;
  virtual void store(arch::UserRegs&) const = 0;
  virtual std::uint64_t thread_pointer() const = 0;  // TPIDR_EL0
  virtual void set_thread_pointer(std::uint64_t) = 0;
  virtual void load_fp(const arch::FpState&) = 0;
  virtual void store_fp(arch::FpState&) const = 0;

  virtual Stop run() = 0;
  // Makes run(), or else the next one, return Halted soon. From any thread and from signal handlers.
  virtual void halt() = 0;

  // Entries of these addresses have changed. Translated code stays if the same instructions are still executable there.
  virtual void forget(std::uint64_t start, std::uint64_t end) = 0;
  virtual void forget_everything() = 0;
  // The instructions there may have changed.
  virtual void forget_code(const CodePiece&) = 0;
  // Whether it has code translated from that frame of the guest that it is bound to. From any thread; does not tell of
  // code whose bytes are read after this call.
  virtual bool has_code(std::uint64_t frame) const = 0;
};

// Guarded accesses, of words by log2 of their bytes; see arch/guarded.hpp, arch/guarded_word.hpp.
struct GuardedWords {
  arch::RametGuarded (*copy)(void*, const void*, std::size_t);
  arch::RametGuarded (*load[4])(const void*);
  arch::RametGuarded (*store[4])(void*, std::uint64_t);
  arch::RametGuarded (*exchange[4])(void*, std::uint64_t, std::uint64_t);
  arch::RametGuarded (*load_pair)(const void*, std::uint64_t*);
  arch::RametGuarded (*store_pair)(void*, const std::uint64_t*);
  arch::RametGuarded (*exchange_pair)(void*, std::uint64_t*, const std::uint64_t*);
};

// Null: the host has no memory for another.
using MakeEngine = Engine* (*)(const GuardedWords&) noexcept;

}  // namespace ramet::vmm::soft
