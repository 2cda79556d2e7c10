// Pager: the pages of snapshot files in the host's memory. Each block is brought when it is first touched: by a vCPU
// (stage 2), by a system call, by the VMM itself. The host tells of a touch by userfaultfd; several threads answer, and
// no lock is held while they do: the thread that changes a block's state from Empty makes it ready aside, and puts it
// in its place at once. A block is checked before it can be seen; blocks of uncompressed files are then mapped, not
// copied.
//
// A machine that maps guest memory into other processes takes it from files, and asks for pages before it maps or looks
// at them, as the host would not tell of those processes' touches. There the pages are in the snapshot file itself, or
// in a memory file, and the thread that asks for a block makes it ready.
#pragma once

#include <atomic>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "guest-mm/bank.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "vmm/error.hpp"
#include "vmm/linux/files/files.hpp"
#include "vmm/snapshot/file.hpp"

namespace ramet::vmm::snapshot {

class Pager {
 public:
  // Called when a block turns out damaged while a thread waits for it, on a thread of the pager's or the one that asked
  // for the block. It must not return: the guest can neither have the page nor go on without it.
  using Damaged = std::function<void(const Failure&)>;

  enum class How : std::uint8_t {
    Lazily,  // as above; where the host gives no userfaultfd, as Checked
    Checked,  // all pages are checked now, and mapped or decompressed
    Copied,  // all pages are checked and copied now: somebody could write or truncate the files later
  };
  // Of the file and its parents. `files`: for a machine that needs pages in files, see Machine::Needs. Errors: damaged
  // (not if Lazily), no host memory or threads.
  static std::expected<std::shared_ptr<Pager>, Failure> create(const std::shared_ptr<const File>&, Damaged,
                                                               How = How::Lazily, bool files = false);
  ~Pager();
  Pager(const Pager&) = delete;
  Pager& operator=(const Pager&) = delete;

  // The pages of the file (0), of its parent (1)... Read-only, there as long as the pager.
  std::span<std::byte> pages(std::size_t source) const { return {ranges_[source].host, ranges_[source].bytes}; }
  // A bank of them, which keeps the pager. Errors: as Memory::make_bank().
  static mm::Result<std::shared_ptr<mm::Bank>> make_bank(const std::shared_ptr<Pager>&, std::size_t source,
                                                         mm::Memory&);
  // Why pages are not brought lazily although that was asked for; else empty.
  const std::string& not_lazy() const { return not_lazy_; }

  // keep_working_set() lists the blocks that were touched, in that order, in a file beside the snapshot's;
  // fetch_ahead() brings the blocks that such a file lists. Hints: errors of reading and writing it are ignored.
  void fetch_ahead();
  void keep_working_set() const RAMET_EXCLUDES(lock_);

  struct Counts {
    std::uint64_t faults = 0;  // reported by userfaultfd, or blocks that a machine asked for
    std::uint64_t blocks = 0;  // blocks made ready
    std::uint64_t ahead = 0;  // those of them that were read ahead
  };
  Counts counts() const;

 private:
  enum State : std::uint8_t { Empty, Taken, There };
  struct Range final : mm::PageSource {
    Pager* pager = nullptr;
    std::shared_ptr<const File> file;
    mm::FilePart part;  // where the pages are, if they are to be in a file
    bool copied = false;  // into part's file, which is not the snapshot file
    std::byte* host = nullptr;
    std::uint64_t bytes = 0;
    // Release when a block becomes There: pairs with the acquire in is_there(). Where pages are in files, bring() waits
    // on it for a block that another thread has taken.
    std::unique_ptr<std::atomic<std::uint8_t>[]> states;
    // Read-ahead: the block that is touched next if memory is read sequentially, and how many the last touch brought.
    // Hints, they pair with nothing.
    std::atomic<std::uint64_t> next{0}, window{1};
    std::span<std::byte> block(std::uint64_t n) const {
      return {host + n * kBlockBytes, file->pages_in(n) * kPageBytes};
    }
    // Checks a block whose pages are in a file, or unpacks it there. Errors: damaged.
    Status make_ready(std::uint64_t block) const;
    bool is_there(std::uint64_t block) const { return states[block].load(std::memory_order_acquire) == There; }
    void bring(std::uint64_t start, std::uint64_t end) override;
    mm::Range there(std::uint64_t at, mm::Range within) const override;
  };
  Pager() = default;
  static Status choose_file(Range&, bool copied);
  static Status map(Range&);
  static Status read_all(Range&, bool copied);
  Status open_userfaultfd();
  Status start();
  void answer() RAMET_EXCLUDES(lock_);  // one thread's work
  // Serves a block that a thread waits for, and some after it.
  void touched(Range&, std::uint64_t block) RAMET_EXCLUDES(lock_);
  // Makes a block ready. False: another thread does, or has done so.
  bool serve(Range&, std::uint64_t block);
  void put(Range&, std::uint64_t block);
  void wake(const Range&, std::uint64_t block) const;
  [[noreturn]] void damaged(const Failure&) const;
  std::string working_set_path() const { return ranges_[0].file->path() + ".ws"; }

  std::vector<Range> ranges_;
  Damaged damaged_;
  std::string not_lazy_;
  bool all_there_ = false;  // from the start
  HostFd userfaultfd_, stop_;
  std::vector<std::jthread> threads_;
  std::atomic<std::uint64_t> mapped_{0};  // blocks that were mapped, not copied; it orders nothing
  std::atomic<std::uint64_t> faults_{0}, blocks_{0}, ahead_{0};  // statistics
  std::atomic<bool> ending_{false};  // relaxed: the thread that fetches ahead looks now and then
  mutable Mutex lock_;  // innermost
  std::vector<std::uint64_t> order_ RAMET_GUARDED_BY(lock_);  // blocks that were touched: source << 32 | block
};

}  // namespace ramet::vmm::snapshot
