#include "vmm/soft/dynarmic/code_pages.hpp"

#include <array>
#include <cstddef>

#include "vmm/soft/dynarmic/page_map.hpp"

namespace ramet::vmm::soft {

CodePages::Page CodePages::Page::of(const Memory::Run& run, std::uint64_t page, const GuardedWords& words) {
  Page p{.frame = run.frame + (page - run.start), .bank = run.bank};
  if (!run.bank.expired()) return p;
  // It is not written while it can be executed, but it may lie in a file that is truncated.
  std::array<std::byte, mm::kPageSize> contents;
  if (words.copy(contents.data(), run.host + (page - run.start), sizeof contents).fault) p.stays = false;
  else p.digest = XXH3_128bits(contents.data(), sizeof contents);
  return p;
}

bool CodePages::Page::same(const Page& now) const {
  if (!stays || !now.stays) return false;
  const auto here = bank.lock(), there = now.bank.lock();
  if (here || there) return here == there && frame == now.frame;
  return XXH128_isEqual(digest, now.digest);
}

void CodePages::add(std::uint64_t page, const Page& what) {
  LockGuard guard(lock_);
  pages_[page] = what;
  frames_.emplace(what.frame, page);
}

void CodePages::remove(std::uint64_t page) {
  const auto found = pages_.find(page);
  if (found == pages_.end()) return;
  LockGuard guard(lock_);
  drop_frame_locked(found->second.frame, page);
  pages_.erase(found);
}

void CodePages::forget_frames() {
  LockGuard guard(lock_);
  frames_.clear();
}

void CodePages::index_frames() {
  LockGuard guard(lock_);
  frames_.clear();
  for (const auto& [page, what] : pages_) frames_.emplace(what.frame, page);
}

bool CodePages::has_frame(std::uint64_t frame) const {
  LockGuard guard(lock_);
  return frames_.contains(frame);
}

std::vector<std::uint64_t> CodePages::pages_of(std::uint64_t frame) const {
  std::vector<std::uint64_t> pages;
  LockGuard guard(lock_);
  const auto [from, to] = frames_.equal_range(frame);
  for (auto at = from; at != to; ++at) pages.push_back(at->second);
  return pages;
}

void CodePages::move(std::uint64_t page, Page& what, std::uint64_t frame) {
  LockGuard guard(lock_);
  drop_frame_locked(what.frame, page);
  frames_.emplace(frame, page);
  what.frame = frame;
}

void CodePages::drop_frame_locked(std::uint64_t frame, std::uint64_t page) {
  const auto [from, to] = frames_.equal_range(frame);
  for (auto at = from; at != to; ++at)
    if (at->second == page) {
      frames_.erase(at);
      return;
    }
}

}  // namespace ramet::vmm::soft
