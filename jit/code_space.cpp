#include "jit/code_space.hpp"

#include <algorithm>
#include <vector>

#include "jit/entry_code.hpp"

namespace ramet::jit {

using mm::Gva;
using mm::kBlockSize;

namespace {

// Lengths are rounded up to this, so that the rest can be filled with whole instructions of any set.
constexpr std::uint64_t kGrain = 16;

std::span<const std::byte> as_bytes(std::span<const std::uint8_t> code) { return std::as_bytes(code); }

}  // namespace

CodeSpace::CodeSpace(mm::AddressSpace& copy, const CodeSpace& of)
    : space_(copy), set_(of.set_), start_(of.start_), size_(of.size_) {
  LockGuard guard(of.lock_);
  pieces_ = of.pieces_, rooms_ = of.rooms_, by_length_ = of.by_length_, blocks_ = of.blocks_, bytes_ = of.bytes_;
}

void CodeSpace::take_locked(std::map<Gva, std::uint64_t>::iterator room) {
  by_length_.erase({room->second, room->first});
  rooms_.erase(room);
}

// Joins the range with free ranges on both sides, within the block.
void CodeSpace::free_locked(Gva at, std::uint64_t bytes) {
  if (auto next = rooms_.find(at + bytes); next != rooms_.end() && next->first % kBlockSize != 0) {
    bytes += next->second;
    take_locked(next);
  }
  if (auto next = rooms_.lower_bound(at); next != rooms_.begin() && at % kBlockSize != 0) {
    const auto before = std::prev(next);
    if (before->first + before->second == at) {
      at = before->first;
      bytes += before->second;
      take_locked(before);
    }
  }
  rooms_.emplace(at, bytes);
  by_length_.emplace(bytes, at);
}

mm::Result<> CodeSpace::trap_locked(Gva at, std::uint64_t bytes) {
  const auto fill = traps(set_, bytes);
  return space_.write_code(at, as_bytes(fill));
}

mm::Result<> CodeSpace::add_block_locked() {
  Gva at = start_;
  while (at < start_ + size_ && blocks_.contains(at)) at += kBlockSize;
  if (at == start_ + size_) return mm::fail(mm::Error::NoMemory);
  const mm::MapRequest request{
      .address = at, .length = kBlockSize, .prot = mm::Prot::Read | mm::Prot::Exec, .fixed = true, .name = "[bpf]"};
  if (auto mapped = space_.map(request); !mapped) return mm::fail(mapped.error());
  auto done = space_.advise(at, kBlockSize, mm::Advice::Huge);
  if (done) done = trap_locked(at, kBlockSize);
  if (!done) {
    (void)space_.unmap(at, kBlockSize);  // the error before is the one to report
    return done;
  }
  blocks_.insert(at);
  rooms_.emplace(at, kBlockSize);
  by_length_.emplace(kBlockSize, at);
  return {};
}

mm::Result<Gva> CodeSpace::allocate_locked(std::uint64_t bytes, std::uint32_t alignment) {
  if (bytes == 0 || bytes > kBlockSize) return mm::fail(mm::Error::Invalid);
  bytes = mm::align_up(bytes, kGrain);
  for (bool grown = false;; grown = true) {
    for (auto room = by_length_.lower_bound({bytes, 0}); room != by_length_.end(); ++room) {
      const auto [length, start] = *room;
      const Gva at = mm::align_up(start, alignment);
      if (at + bytes > start + length) continue;
      take_locked(rooms_.find(start));
      if (at > start) free_locked(start, at - start);
      if (at + bytes < start + length) free_locked(at + bytes, start + length - at - bytes);
      return at;
    }
    if (grown) return mm::fail(mm::Error::NoMemory);
    if (auto added = add_block_locked(); !added) return mm::fail(added.error());
  }
}

mm::Result<Gva> CodeSpace::place(std::uint64_t bytes, std::uint32_t alignment,
                                 const std::function<void(std::span<std::uint8_t>, Gva)>& write) {
  LockGuard guard(lock_);
  const auto at = allocate_locked(bytes, alignment);
  if (!at) return at;
  std::vector<std::uint8_t> code(bytes);
  write(code, *at);
  if (auto written = space_.write_code(*at, as_bytes(code)); !written) {
    free_locked(*at, mm::align_up(bytes, kGrain));
    return mm::fail(written.error());
  }
  pieces_.emplace(*at, static_cast<std::uint32_t>(bytes));
  bytes_ += bytes;
  return at;
}

mm::Result<Gva> CodeSpace::place(const Compiled& program, std::uint32_t alignment, const Resolve& resolve) {
  return place(program.code().size(), alignment,
               [&](std::span<std::uint8_t> to, Gva at) { program.place(to, at, resolve); });
}

mm::Result<Gva> CodeSpace::place(std::span<const std::uint8_t> code, std::uint32_t alignment) {
  return place(code.size(), alignment, [&](std::span<std::uint8_t> to, Gva) { std::ranges::copy(code, to.begin()); });
}

mm::Result<> CodeSpace::remove(Gva at) {
  LockGuard guard(lock_);
  const auto piece = pieces_.find(at);
  if (piece == pieces_.end()) return mm::fail(mm::Error::NotMapped);
  const std::uint64_t bytes = mm::align_up(std::uint64_t{piece->second}, kGrain);
  if (auto filled = trap_locked(at, bytes); !filled) return filled;
  bytes_ -= piece->second;
  pieces_.erase(piece);
  free_locked(at, bytes);
  const Gva block = mm::align_down(at, kBlockSize);
  const auto room = rooms_.find(block);
  if (room == rooms_.end() || room->second != kBlockSize) return {};
  take_locked(room);
  blocks_.erase(block);
  return space_.unmap(block, kBlockSize);
}

std::uint64_t CodeSpace::compact() {
  LockGuard guard(lock_);
  for (const Gva block : blocks_) {
    // What could not be moved stays as it was.
    (void)space_.migrate({.address = block, .length = kBlockSize, .reason = mm::MoveReason::Compaction});
    space_.merge(block, kBlockSize);
  }
  std::uint64_t whole = 0;
  space_.dump([&](const mm::AddressSpace::Node& n) RAMET_REQUIRES(lock_) {
    whole += !n.table && n.level == arch::Level::Pmd && blocks_.contains(n.start);
  });
  return whole;
}

std::optional<CodeSpace::Piece> CodeSpace::find(Gva at) const {
  LockGuard guard(lock_);
  auto piece = pieces_.upper_bound(at);
  if (piece == pieces_.begin()) return std::nullopt;
  --piece;
  if (at - piece->first >= piece->second) return std::nullopt;
  return Piece{piece->first, piece->second};
}

CodeSpace::Usage CodeSpace::usage() const {
  LockGuard guard(lock_);
  return {.pieces = pieces_.size(), .bytes = bytes_, .blocks = blocks_.size()};
}

std::vector<Gva> CodeSpace::blocks() const {
  LockGuard guard(lock_);
  return {blocks_.begin(), blocks_.end()};
}

}  // namespace ramet::jit
