// The two queues of a guest's ring, in memory that the guest maps and writes at any time: entries for submission, which
// the guest produces, and completions, which the VMM does. Nothing read there is trusted, and nothing is read twice.
// Accesses are guarded (arch/guarded.hpp): the file cannot shrink, but a guest may punch holes into it that the host
// has no memory to fill.
//
//   IORING_OFF_SQ_RING ┌ heads, tails, masks ┬ completions ┬ array of indexes ┐   one memory file; the same place is
//   IORING_OFF_CQ_RING └─────────────────────┴─────────────┴──────────────────┘   behind both (IORING_FEAT_SINGLE_MMAP)
//   IORING_OFF_SQES    [ entries for submission ]
#pragma once

#include <liburing.h>

#include <atomic>
#include <memory>
#include <optional>
#include <span>

#include "vmm/linux/files/files.hpp"

namespace ramet::vmm {

// io_uring_cqe without its flexible end.
struct Completion {
  std::uint64_t user_data;
  std::int32_t result;
  std::uint32_t flags;
};

class UringQueues {
 public:
  // Entries are powers of two. Errors: ENOMEM, EMFILE and others of the host.
  static OrErrno<std::unique_ptr<UringQueues>> create(unsigned sq_entries, unsigned cq_entries);
  ~UringQueues();
  UringQueues(const UringQueues&) = delete;
  UringQueues& operator=(const UringQueues&) = delete;

  unsigned sq_entries() const { return sq_entries_; }
  unsigned cq_entries() const { return cq_entries_; }
  static std::uint64_t bytes(unsigned sq_entries, unsigned cq_entries);

  // Where in `memory()` a mapping of the ring descriptor lies. Errors: EINVAL, as Linux: no such place, or too long.
  OrErrno<std::uint64_t> place(std::uint64_t offset, std::uint64_t length) const;
  // The memory file to map.
  const std::shared_ptr<OpenFile>& memory() const { return file_; }
  void describe(io_sqring_offsets&, io_cqring_offsets&) const;

  // --- submission; one thread at a time ---
  unsigned submissions() const;  // waiting; at most sq_entries()
  // Takes the next entry. None: its index was out of range or it cannot be read; it is dropped (sq_off.dropped counts).
  std::optional<io_uring_sqe> take();
  void publish_head();  // lets the guest reuse the entries that were taken

  // --- completion; one thread at a time ---
  unsigned completions() const;  // that the guest has not taken yet; at most cq_entries()
  bool put(const Completion&);  // false: full
  void set_overflow(bool);  // IORING_SQ_CQ_OVERFLOW
  bool eventfd_disabled() const;  // IORING_CQ_EVENTFD_DISABLED

 private:
  struct Rings;  // Linux: struct io_rings
  static std::uint64_t array_offset(unsigned cq_entries);
  UringQueues(unsigned sq, unsigned cq) : sq_entries_(sq), cq_entries_(cq) {}
  const unsigned sq_entries_, cq_entries_;
  std::shared_ptr<OpenFile> file_;
  std::span<std::byte> rings_bytes_, entries_;  // the VMM's mappings
  Rings* rings_ = nullptr;  // at the start of rings_bytes_
  unsigned sq_head_ = 0, sq_dropped_ = 0, cq_tail_ = 0;  // the guest's memory holds copies
};

}  // namespace ramet::vmm
