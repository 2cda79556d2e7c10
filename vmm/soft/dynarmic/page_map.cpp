#include "vmm/soft/dynarmic/page_map.hpp"

#include <sys/mman.h>

#include <algorithm>

namespace ramet::vmm::soft {
namespace {

constexpr std::uint64_t kTableBytes = kAddressEnd / kPage * sizeof(void*);

}  // namespace

bool PageMap::map() {
  void* const at = ::mmap(nullptr, kTableBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return false;
  table_ = static_cast<void**>(at);
  used_.resize(kAddressEnd / kTableSpan / 64);
  return true;
}

PageMap::~PageMap() {
  if (table_) ::munmap(table_, kTableBytes);
}

void PageMap::keep(std::uint64_t page, const Memory::Run& run) {
  if (!run.write || !run.lasting) {
    cache_[page / kPage % kEntries] = {page, run.host + (page - run.start), run.write};
    return;
  }
  for (std::uint64_t at = run.start; at < run.end; at += kPage) {
    used_[at / kTableSpan / 64] |= 1ull << (at / kTableSpan % 64);
    table_[at / kPage] = run.host + (at - run.start);
  }
}

void PageMap::forget(std::uint64_t start, std::uint64_t end) {
  end = std::min(end, kAddressEnd);
  if (start >= end) return;
  if ((end - start) / kPage >= kEntries) {
    cache_.fill({});
  } else {
    for (std::uint64_t at = start; at < end; at += kPage)
      if (Entry& e = cache_[at / kPage % kEntries]; e.page == at) e = {};
  }
  for (std::uint64_t span = start / kTableSpan; span <= (end - 1) / kTableSpan; ++span) {
    if (!used(span)) continue;
    const std::uint64_t from = std::max(start, span * kTableSpan), to = std::min(end, (span + 1) * kTableSpan);
    std::fill(table_ + from / kPage, table_ + to / kPage, nullptr);
  }
}

void PageMap::forget_everything() {
  cache_.fill({});
  for (std::uint64_t span = 0; span < kAddressEnd / kTableSpan; ++span) {
    if (!used(span)) continue;
    void* const at = table_ + span * kTableSpan / kPage;
    if (::madvise(at, kPage, MADV_DONTNEED) != 0) std::fill_n(table_ + span * kTableSpan / kPage, kTableSpan / kPage, nullptr);
  }
  std::ranges::fill(used_, 0);
}

}  // namespace ramet::vmm::soft
