// Code space: where compiled programs lie in a guest, packed into blocks of 2 MiB that are mapped readable and
// executable, each by one entry. No mapping of them is ever both writable and executable: the VMM stores code through a
// mapping of its own (AddressSpace::write_code), and the code's address is not used before fetches see what was stored.
// Room without a program is filled with instructions that trap. A block that was split, by migration or protection, is
// merged again when its pages allow it; an empty block is unmapped.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "guest-mm/address_space.hpp"
#include "guest-mm/space_lock.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "jit/compiler.hpp"

namespace ramet::jit {

class CodeSpace {
 public:
  // Lies in [start, start + size), aligned to 2 MiB, which is mapped as needed; calls reach all of it if it is not
  // larger than 1 GiB. The address space outlives the code space and belongs to a guest that runs code of `set`.
  CodeSpace(mm::AddressSpace& space, InstructionSet set, mm::Gva start, std::uint64_t size)
      : space_(space), set_(set), start_(start), size_(size) {}
  // For a copy of the guest of `of`, made while nothing was being placed or removed.
  CodeSpace(mm::AddressSpace& copy, const CodeSpace& of);

  using Resolve = std::function<std::uint64_t(const Relocation&)>;
  // Places code at an address that is a multiple of `alignment`, a power of two up to 4 KiB; it may be entered when
  // this returns. Errors: NoMemory; Invalid: empty, or more than a block holds.
  mm::Result<mm::Gva> place(const Compiled&, std::uint32_t alignment, const Resolve&) RAMET_EXCLUDES(lock_);
  mm::Result<mm::Gva> place(std::span<const std::uint8_t> code, std::uint32_t alignment) RAMET_EXCLUDES(lock_);
  // Removes code. A thread that is in it, or returns to it, traps from now on. Errors: NotMapped: nothing was placed
  // there; NoMemory.
  mm::Result<> remove(mm::Gva) RAMET_EXCLUDES(lock_);

  // Moves the pages of each block into one run of frames again, while programs run. Returns how many blocks are mapped
  // by one entry now; for the others memory was short, or devices or children have some of their pages.
  std::uint64_t compact() RAMET_EXCLUDES(lock_);

  // What was placed around an address.
  struct Piece {
    mm::Gva start = 0;
    std::uint32_t bytes = 0;
  };
  std::optional<Piece> find(mm::Gva) const RAMET_EXCLUDES(lock_);

  struct Usage {
    std::uint64_t pieces = 0, bytes = 0;  // placed
    std::uint64_t blocks = 0;
  };
  Usage usage() const RAMET_EXCLUDES(lock_);
  // The addresses of the blocks, in order.
  std::vector<mm::Gva> blocks() const RAMET_EXCLUDES(lock_);

 private:
  mm::Result<mm::Gva> place(std::uint64_t bytes, std::uint32_t alignment,
                            const std::function<void(std::span<std::uint8_t>, mm::Gva)>& write) RAMET_EXCLUDES(lock_);
  mm::Result<mm::Gva> allocate_locked(std::uint64_t bytes, std::uint32_t alignment) RAMET_REQUIRES(lock_);
  mm::Result<> add_block_locked() RAMET_REQUIRES(lock_);
  mm::Result<> trap_locked(mm::Gva, std::uint64_t bytes) RAMET_REQUIRES(lock_);
  void free_locked(mm::Gva, std::uint64_t bytes) RAMET_REQUIRES(lock_);
  void take_locked(std::map<mm::Gva, std::uint64_t>::iterator room) RAMET_REQUIRES(lock_);

  mm::AddressSpace& space_;
  const InstructionSet set_;
  const mm::Gva start_;
  const std::uint64_t size_;
  mutable Mutex lock_ RAMET_ACQUIRED_BEFORE(mm::address_space_lock);
  std::map<mm::Gva, std::uint32_t> pieces_ RAMET_GUARDED_BY(lock_);
  // Free ranges, address to length; none reaches across a block's end.
  std::map<mm::Gva, std::uint64_t> rooms_ RAMET_GUARDED_BY(lock_);
  std::set<std::pair<std::uint64_t, mm::Gva>> by_length_ RAMET_GUARDED_BY(lock_);  // the same, by length
  std::set<mm::Gva> blocks_ RAMET_GUARDED_BY(lock_);
  std::uint64_t bytes_ RAMET_GUARDED_BY(lock_) = 0;
};

}  // namespace ramet::jit
