// Accesses of the VMM to guest memory, always guarded (arch/guarded.hpp). A shared file may shrink, or become
// read-only, after any check; a plain access would then raise SIGBUS or SIGSEGV in the VMM. AddressSpace::create() has
// installed the guard.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "arch/guarded.hpp"
#include "guest-mm/bank.hpp"
#include "guest-mm/pin_book.hpp"
#include "guest-mm/types.hpp"

namespace ramet::mm {

// Copies from guest memory to the VMM's or back. Errors: BeyondEnd; what lies before the page that could not be reached
// has been copied.
inline Result<> copy_guarded(std::byte* to, const std::byte* from, std::size_t bytes) {
  if (!arch::guarded_copy(to, from, bytes)) return fail(Error::BeyondEnd);
  return {};
}

// Precondition: `bytes` are whole aligned words, of memory that cannot be taken away.
inline bool all_zero(std::span<const std::byte> bytes) {
  std::uint64_t sum = 0;
  const auto* words = reinterpret_cast<const std::uint64_t*>(bytes.data());
  for (std::size_t i = 0; i < bytes.size() / sizeof *words; ++i) sum |= words[i];
  return sum == 0;
}

// A piece of guest memory, contiguous on the host; its owner keeps it mapped meanwhile.
class HostBytes {
 public:
  HostBytes() = default;
  explicit HostBytes(std::span<std::byte> bytes) : bytes_(bytes) {}
  std::uint64_t size() const { return bytes_.size(); }
  // Copies from `offset` on; precondition: within the piece. Errors: as copy_guarded().
  Result<> read(std::uint64_t offset, std::span<std::byte> out) const {
    return copy_guarded(out.data(), bytes_.data() + offset, out.size());
  }
  Result<> write(std::uint64_t offset, std::span<const std::byte> in) const {
    return copy_guarded(bytes_.data() + offset, in.data(), in.size());
  }
  // For the host's kernel and for devices, which handle failing accesses themselves. Not to be dereferenced.
  void* address(std::uint64_t offset = 0) const { return bytes_.data() + offset; }
  // Appends `next` if it begins where this ends. False: it does not, and nothing has changed.
  bool join(const HostBytes& next) {
    if (bytes_.data() + bytes_.size() != next.bytes_.data()) return false;
    bytes_ = {bytes_.data(), bytes_.size() + next.bytes_.size()};
    return true;
  }

 private:
  std::span<std::byte> bytes_;
};

// An aligned 4-byte word of guest memory, which stays where it is while this is held. The guest may change it at any
// time; accesses are atomic. Errors: BeyondEnd (it cannot be reached, or not be written).
class HostWord {
 public:
  HostWord(std::byte* at, std::shared_ptr<Bank> keep, bool shared, PinHold pinned)
      : at_(reinterpret_cast<std::uint32_t*>(at)), keep_(std::move(keep)), shared_(shared), pinned_(std::move(pinned)) {
  }

  // Acquire: pairs with the guest's release.
  Result<std::uint32_t> load() const {
    if (const auto value = arch::guarded_load(at_)) return *value;
    return fail(Error::BeyondEnd);
  }
  // Returns what was there; if that was `expected`, the word is `desired` now. Acquire and release: pairs with the
  // guest's own atomics on the word.
  Result<std::uint32_t> compare_exchange(std::uint32_t expected, std::uint32_t desired) const {
    if (const auto found = arch::guarded_compare_exchange(at_, expected, desired)) return *found;
    return fail(Error::BeyondEnd);
  }
  // For futex(2) of the host, which answers EFAULT where the word cannot be reached. Not to be dereferenced.
  std::uint64_t address() const { return reinterpret_cast<std::uintptr_t>(at_); }
  bool shared() const { return shared_; }  // memory that other processes of the host may have as well

 private:
  std::uint32_t* at_;
  std::shared_ptr<Bank> keep_;
  bool shared_;
  PinHold pinned_;
};

}  // namespace ramet::mm
