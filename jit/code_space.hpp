// Code space: where compiled programs lie in a guest, packed into blocks of 2 MiB that are mapped readable and
// executable, each by one entry. Nobody ever has a mapping of them that is both writable and executable: the VMM stores
// code through its own one (AddressSpace::write_code), and an address is told to nobody before fetches see what was
// stored. What no program occupies is filled with instructions that trap. A block that was split, by migration or
// protection, is one again when its pages allow it; one that is empty goes.
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
  // In [start, start + size), aligned to 2 MiB, which is mapped as it is needed; calls reach all of it if it is not
  // larger than 1 GiB. The address space outlives it, and is one of a guest that runs programs of `set`.
  CodeSpace(mm::AddressSpace& space, InstructionSet set, mm::Gva start, std::uint64_t size)
      : space_(space), set_(set), start_(start), size_(size) {}
  // Of a copy of that one's guest, which was made while nothing was placed or removed.
  CodeSpace(mm::AddressSpace& copy, const CodeSpace& of);

  using Resolve = std::function<std::uint64_t(const Relocation&)>;
  // Code at an address that is a multiple of `alignment`, a power of two up to 4 KiB; ready to be entered when this
  // returns. Errors: NoMemory; Invalid: more than a block holds.
  mm::Result<mm::Gva> place(const Compiled&, std::uint32_t alignment, const Resolve&) RAMET_EXCLUDES(lock_);
  mm::Result<mm::Gva> place(std::span<const std::uint8_t> code, std::uint32_t alignment) RAMET_EXCLUDES(lock_);
  // Who is in it, or comes back to it, traps from now on. Errors: NotMapped: nothing was placed there; NoMemory.
  mm::Result<> remove(mm::Gva) RAMET_EXCLUDES(lock_);

  // Brings blocks whose pages have been moved one by one into one run of frames each again, while programs run. How
  // many blocks are one entry now; the others are short of memory, or devices and children have pages of them.
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
  // Where they begin, in order.
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
  std::map<mm::Gva, std::uint64_t> rooms_
      RAMET_GUARDED_BY(lock_);  // free, with their lengths; none reaches across a block's end
  std::set<std::pair<std::uint64_t, mm::Gva>> by_length_ RAMET_GUARDED_BY(lock_);  // the same
  std::set<mm::Gva> blocks_ RAMET_GUARDED_BY(lock_);
  std::uint64_t bytes_ RAMET_GUARDED_BY(lock_) = 0;
};

}  // namespace ramet::jit
