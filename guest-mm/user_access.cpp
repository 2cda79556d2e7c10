// Guest memory as the VMM uses it for system calls. Addresses and lengths come from a hostile program.
#include <algorithm>
#include <cstring>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {
namespace {

// Bytes that are copied or collected before the lock is released in between.
constexpr std::uint64_t kMaxPiece = 2 * kBlockSize;

}  // namespace

Result<PageTable::Leaf> UserMemory::touch_locked(Gva address, Access access, FlushBatch& batch) {
  // Beyond the end lie the VMM's own mappings; the walker ignores the highest address bits.
  if (address >= core_.config.end) return fail(Error::NotMapped);
  PageTable::Leaf leaf = core_.table->find(address);
  if (leaf.state == PageTable::State::Present && EntryRules::allows(leaf, access)) return leaf;
  if (auto done = faults_.fault_locked(address, access, true, batch); !done) return fail(done.error());
  return core_.table->find(address);
}

Result<UserMemory::Piece> UserMemory::piece_locked(Gva address, std::uint64_t length, Access access,
                                                   FlushBatch& batch) {
  address = core_.untagged(address);
  length = std::min(length, kMaxPiece);
  const auto first = touch_locked(address, access, batch);
  if (!first) return fail(first.error());
  Piece piece;
  piece.gpa = first->address + (address - first->start);
  piece.object = !core_.memory.data().contains(piece.gpa) && !core_.memory.inherited(piece.gpa);
  const auto host = core_.memory.host_range(piece.gpa);
  if (host.empty()) return fail(Error::BeyondEnd);  // its bank was detached: the object's mapping has gone
  length = std::min<std::uint64_t>(length, host.size());
  Gva end = first->end();
  while (end - address < length) {
    const auto next = touch_locked(end, access, batch);
    // A page that cannot be reached ends the piece; it is an error only at the beginning of one.
    if (!next || next->address != piece.gpa + (end - address)) break;
    end = next->end();
  }
  piece.bytes = HostBytes(host.first(std::min(length, end - address)));
  core_.memory.bring(piece.gpa, piece.bytes.size());
  return piece;
}

Result<> AddressSpace::read(Gva address, std::span<std::byte> out) {
  while (!out.empty()) {
    FlushBatch batch = impl_->core.locked();
    const auto piece = impl_->user.piece_locked(address, out.size(), Access::Read, batch);
    if (!piece) return fail(piece.error());
    const std::size_t n = piece->bytes.size();
    if (auto done = piece->bytes.read(0, out.first(n)); !done) return done;
    out = out.subspan(n);
    address += n;
  }
  return {};
}

Result<> AddressSpace::write(Gva address, std::span<const std::byte> in) {
  while (!in.empty()) {
    FlushBatch batch = impl_->core.locked();
    const auto piece = impl_->user.piece_locked(address, in.size(), Access::Write, batch);
    if (!piece) return fail(piece.error());
    const std::size_t n = piece->bytes.size();
    if (auto done = piece->bytes.write(0, in.first(n)); !done) return done;
    in = in.subspan(n);
    address += n;
  }
  return {};
}

Result<> AddressSpace::write_code(Gva address, std::span<const std::byte> in) {
  Impl& m = *impl_;
  while (!in.empty()) {
    FlushBatch batch = m.core.locked();
    const Gva page = align_down(address, kPageSize);
    const Region* region = m.core.regions.find(page);
    if (!region) return fail(Error::NotMapped);
    if (region->shared || has(region->prot, Prot::Write) || !has(region->prot, Prot::Exec))
      return fail(Error::NotPermitted);
    // In an exclusive frame: other VMs can map the frames of a layer.
    const auto leaf = m.pinning.exclusive_locked(page, Access::Read, batch);
    if (!leaf) return fail(leaf.error());
    const Gpa frame = leaf->address + (address - leaf->start);
    const std::size_t n = std::min<std::uint64_t>(in.size(), leaf->end() - address);
    // Unguarded: memory of the private bank, which is never unmapped.
    std::memcpy(memory_.data().at(frame), in.data(), n);
    if (leaf->attributes.execute) m.core.tlb.exec_sync(frame, n);
    in = in.subspan(n);
    address += n;
  }
  return {};
}

Result<std::string> AddressSpace::read_string(Gva address, std::size_t limit) {
  std::string text;
  // Page by page: what lies behind the zero need not be there.
  while (text.size() <= limit) {
    std::byte page[kPageSize];
    const std::uint64_t n = std::min<std::uint64_t>(kPageSize - (address & (kPageSize - 1)), limit + 1 - text.size());
    if (auto done = read(address, {page, n}); !done) return fail(done.error());
    const auto* chars = reinterpret_cast<const char*>(page);
    const std::size_t length = ::strnlen(chars, n);
    text.append(chars, length);
    if (length < n) return text;
    address += n;
  }
  return fail(Error::Invalid);
}

Result<std::uint64_t> AddressSpace::gather(Gva address, std::uint64_t length, Access access,
                                           std::vector<HostRange>& out) {
  std::uint64_t total = 0;
  const std::size_t already = out.size();
  while (total < length && out.size() - already < kMostPieces) {
    FlushBatch batch = impl_->core.locked();
    const auto piece = impl_->user.piece_locked(address + total, length - total, access, batch);
    if (!piece) {
      if (total > 0) break;
      return fail(piece.error());
    }
    auto keep = memory_.bank_of(piece->gpa);
    if (!keep) break;
    PinHold pinned;
    if (access == Access::Write && !piece->object)
      pinned = impl_->pinning.hold_locked(piece->gpa, address + total, piece->bytes.size());
    HostRange next{piece->bytes, std::move(keep), std::move(pinned)};
    if (out.empty() || !out.back().join(next)) out.push_back(std::move(next));
    total += piece->bytes.size();
  }
  return total;
}

// The frame is exclusive, as for a read pin: a waiter at the word must still be found at that frame after the page was
// made writable and written.
Result<HostWord> AddressSpace::word(Gva address, Access access) {
  address = impl_->core.untagged(address);
  if (!is_aligned(address, sizeof(std::uint32_t))) return fail(Error::Invalid);
  FlushBatch batch = impl_->core.locked();
  const auto leaf = impl_->pinning.exclusive_locked(align_down(address, kPageSize), access, batch);
  if (!leaf) return fail(leaf.error());
  const Gpa gpa = leaf->address + (address - leaf->start);
  auto keep = memory_.bank_of(gpa);
  if (!keep) return fail(Error::BeyondEnd);
  std::byte* const at = keep->at(gpa);
  return HostWord(at, std::move(keep), !memory_.data().contains(gpa),
                  impl_->pinning.hold_locked(gpa, address, sizeof(std::uint32_t)));
}

}  // namespace ramet::mm
