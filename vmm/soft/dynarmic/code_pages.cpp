#include "vmm/soft/dynarmic/code_pages.hpp"

namespace ramet::vmm::soft {

void CodePages::add(std::uint64_t page, const Page& what) {
  std::lock_guard guard(lock_);
  pages_[page] = what;
  frames_.emplace(what.frame, page);
}

bool CodePages::has_frame(std::uint64_t frame) const {
  std::lock_guard guard(lock_);
  return frames_.contains(frame);
}

std::vector<std::uint64_t> CodePages::pages_of(std::uint64_t frame) const {
  std::vector<std::uint64_t> pages;
  std::lock_guard guard(lock_);
  const auto [from, to] = frames_.equal_range(frame);
  for (auto at = from; at != to; ++at) pages.push_back(at->second);
  return pages;
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
