// Which pages an engine has translated code from, and which frames they were.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace ramet::vmm::soft {

class CodePages {
 public:
  struct Page {
    std::uint64_t frame = 0;
    std::weak_ptr<const void> bank;
    bool same(const Page& o) const {
      if (frame != o.frame) return false;
      const auto bank_now = bank.lock();
      return bank_now && bank_now == o.bank.lock();
    }
  };

  // Before the first byte of it is read.
  void add(std::uint64_t page, const Page&);
  bool has(std::uint64_t page) const { return pages_.contains(page); }
  bool has_frame(std::uint64_t frame) const;
  std::vector<std::uint64_t> pages_of(std::uint64_t frame) const;
  // Removes the pages within, [start, end), that `stays` says no of; they are returned.
  template <class Stays>
  std::vector<std::uint64_t> remove(std::uint64_t start, std::uint64_t end, Stays&& stays) {
    std::vector<std::uint64_t> gone;
    for (auto at = pages_.lower_bound(start); at != pages_.end() && at->first < end;) {
      if (stays(at->first, at->second)) {
        ++at;
        continue;
      }
      gone.push_back(at->first);
      std::lock_guard guard(lock_);
      drop_frame_locked(at->second.frame, at->first);
      at = pages_.erase(at);
    }
    return gone;
  }

 private:
  void drop_frame_locked(std::uint64_t frame, std::uint64_t page);

  std::map<std::uint64_t, Page> pages_;  // by guest address; the engine's thread's
  mutable std::mutex lock_;              // guards frames_, which others look at; a leaf
  std::unordered_multimap<std::uint64_t, std::uint64_t> frames_;  // the same, by frame
};

}  // namespace ramet::vmm::soft
