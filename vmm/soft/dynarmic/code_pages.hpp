// Which pages an engine has translated code from, and what was there.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include <xxhash.h>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/soft/engine.hpp"

namespace ramet::vmm::soft {

class CodePages {
 public:
  struct Page {
    std::uint64_t frame = 0;
    std::weak_ptr<const void> bank;   // see Memory::Run
    XXH128_hash_t digest{};           // of the contents, without a bank
    bool stays = true;                // false: it has been patched since, or cannot be read

    static Page of(const Memory::Run&, std::uint64_t page, const GuardedWords&);
    // Whether `now` has the same instructions.
    bool same(const Page& now) const;
  };

  // To be called before the first byte of the page is read.
  void add(std::uint64_t page, const Page&) RAMET_EXCLUDES(lock_);
  bool has(std::uint64_t page) const { return pages_.contains(page); }
  void patched(std::uint64_t page) { pages_.at(page).stays = false; }
  void remove(std::uint64_t page) RAMET_EXCLUDES(lock_);
  // The index by frame is of the guest that the engine is bound to: index_frames() makes it, forget_frames() empties
  // it.
  void forget_frames() RAMET_EXCLUDES(lock_);
  void index_frames() RAMET_EXCLUDES(lock_);
  bool has_frame(std::uint64_t frame) const RAMET_EXCLUDES(lock_);
  std::vector<std::uint64_t> pages_of(std::uint64_t frame) const RAMET_EXCLUDES(lock_);
  // Calls `stays` for each page within [start, end): it returns what is there now, or nullopt to remove the page.
  // Returns the removed pages, whose code the engine then drops.
  template <class Stays>
  std::vector<std::uint64_t> remove(std::uint64_t start, std::uint64_t end, Stays&& stays) RAMET_EXCLUDES(lock_) {
    std::vector<std::uint64_t> gone;
    for (auto at = pages_.lower_bound(start); at != pages_.end() && at->first < end;) {
      if (const std::optional<Page> now = stays(at->first, at->second)) {
        if (now->frame != at->second.frame) move(at->first, at->second, now->frame);
        ++at;
        continue;
      }
      gone.push_back(at->first);
      LockGuard guard(lock_);
      drop_frame_locked(at->second.frame, at->first);
      at = pages_.erase(at);
    }
    return gone;
  }

 private:
  void move(std::uint64_t page, Page&, std::uint64_t frame) RAMET_EXCLUDES(lock_);
  void drop_frame_locked(std::uint64_t frame, std::uint64_t page) RAMET_REQUIRES(lock_);

  std::map<std::uint64_t, Page> pages_;  // by guest address; used by the engine's thread only
  mutable Mutex lock_;  // innermost
  std::unordered_multimap<std::uint64_t, std::uint64_t> frames_ RAMET_GUARDED_BY(lock_);  // the pages, by frame
};

}  // namespace ramet::vmm::soft
