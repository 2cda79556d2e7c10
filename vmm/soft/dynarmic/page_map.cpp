#include "vmm/soft/dynarmic/page_map.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <bit>

namespace ramet::vmm::soft {
namespace {

constexpr std::uint64_t kBytes = kAddressEnd / mm::kPageSize * sizeof(std::uintptr_t);
// Pages of the host that are kept when all is cleared: it takes longer to get a new one than to clear one.
constexpr int kMostKept = 64;

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

template <class F>
void PageWords::each_used(std::uint64_t first, std::uint64_t last, F&& f) {
  for (std::uint64_t word = first / 64; word <= last / 64; ++word)
    for (std::uint64_t bits = used_[word]; bits; bits &= bits - 1) {
      const std::uint64_t span = word * 64 + static_cast<std::uint64_t>(std::countr_zero(bits));
      if (span >= first && span <= last) f(span);
    }
}

void PageWords::clear(std::uint64_t start, std::uint64_t end) {
  each_used(start / kSpan, (end - 1) / kSpan, [&](std::uint64_t span) {
    const std::uint64_t from = std::max(start, span * kSpan), to = std::min(end, (span + 1) * kSpan);
    std::fill(words_ + from / mm::kPageSize, words_ + to / mm::kPageSize, 0);
  });
}

void PageWords::clear() {
  int kept = 0;
  each_used(0, kAddressEnd / kSpan - 1, [&](std::uint64_t span) {
    std::uintptr_t* const at = words_ + span * kSpan / mm::kPageSize;
    if (++kept <= kMostKept || ::madvise(at, mm::kPageSize, MADV_DONTNEED) != 0)
      std::fill_n(at, kSpan / mm::kPageSize, 0);
    else used_[span / 64] &= ~(1ull << (span % 64));
  });
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
