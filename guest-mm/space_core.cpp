// Setting up the core of an address space, and steps that its parts have in common.
#include "guest-mm/space_core.hpp"

namespace ramet::mm {

Result<> SpaceCore::begin() {
  auto pool = FramePool::create(
      memory.data(), [this](Gpa from, Gpa to) { return memory.announce(memory.data(), from, to); },
      config.limit_bytes >> kPageShift);
  if (!pool) return fail(pool.error());
  frames = std::move(*pool);
  auto book = PinBook::create(memory.data());
  if (!book) return fail(book.error());
  pins = std::move(*book);
  pins->freed = [this](Gpa first, std::uint64_t pages) { frames->free(first, pages); };
  auto table_pages = TablePool::create(memory);
  if (!table_pages) return fail(table_pages.error());
  tables = std::move(*table_pages);
  auto tree = PageTable::create(config.format, memory, *tables, *frames, tlb, counters);
  if (!tree) return fail(tree.error());
  table = std::move(*tree);
  return {};
}

bool SpaceCore::user_range(Gva& address, std::uint64_t& length) const {
  address = untagged(address);
  if (!is_aligned(address, kPageSize) || length == 0 || length > config.end || address > config.end) return false;
  length = align_up(length, kPageSize);
  return length <= config.end - address;
}

Result<> SpaceCore::split_ends_locked(Gva start, Gva end, FlushBatch& batch) {
  if (auto done = table->unshare_ends(start, end, batch); !done) return done;
  if (auto done = table->split(start, batch); !done) return done;
  return table->split(end, batch);
}

}  // namespace ramet::mm
