#include "vmm/soft/dynarmic/page_map.hpp"

#include <sys/mman.h>

#include <algorithm>

namespace ramet::vmm::soft {
namespace {

constexpr std::uint64_t kBytes = kAddressEnd / mm::kPageSize * sizeof(std::uintptr_t);

}  // namespace

bool PageWords::map() {
  void* const at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return false;
  words_ = static_cast<std::uintptr_t*>(at);
  used_.resize(kAddressEnd / kSpan / 64);
  return true;
}

PageWords::~PageWords() {
  if (words_) ::munmap(words_, kBytes);
}

void PageWords::clear(std::uint64_t start, std::uint64_t end) {
  for (std::uint64_t span = start / kSpan; span <= (end - 1) / kSpan; ++span) {
    if (!used(span)) continue;
    const std::uint64_t from = std::max(start, span * kSpan), to = std::min(end, (span + 1) * kSpan);
    std::fill(words_ + from / mm::kPageSize, words_ + to / mm::kPageSize, 0);
  }
}

void PageWords::clear() {
  for (std::uint64_t span = 0; span < kAddressEnd / kSpan; ++span) {
    if (!used(span)) continue;
    std::uintptr_t* const at = words_ + span * kSpan / mm::kPageSize;
    if (::madvise(at, mm::kPageSize, MADV_DONTNEED) != 0) std::fill_n(at, kSpan / mm::kPageSize, 0);
  }
  std::ranges::fill(used_, 0);
}

void PageMap::keep(const Memory::Run& run) {
  const std::uintptr_t flags = kRead | (run.write ? kWrite : 0) | (run.lasting ? kLasting : 0);
  for (std::uint64_t at = run.start; at < run.end; at += mm::kPageSize) {
    const auto host = reinterpret_cast<std::uintptr_t>(run.host + (at - run.start));
    others_.set(at, host | flags);
    if (run.write && run.lasting) direct_.set(at, host);
  }
}

void PageMap::forget(std::uint64_t start, std::uint64_t end) {
  end = std::min(end, kAddressEnd);
  if (start >= end) return;
  direct_.clear(start, end);
  others_.clear(start, end);
}

void PageMap::forget_everything() {
  direct_.clear();
  others_.clear();
}

}  // namespace ramet::vmm::soft
