// A file whose pages are guest memory; a machine whose guests are host processes maps it into them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "guest-mm/types.hpp"

namespace ramet::mm {

class MemoryFile {
 public:
  // Zero-filled; takes host memory as it is touched. Sealed against shrinking. Errors: NoMemory.
  static Result<std::shared_ptr<MemoryFile>> create(std::uint64_t size);
  // An open file of the caller's, which `keep` keeps open.
  static std::shared_ptr<MemoryFile> of(int descriptor, bool writable, std::shared_ptr<const void> keep);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  int descriptor() const { return descriptor_; }
  bool writable() const { return writable_; }
  // A read-only descriptor of the same memory, open as long as this lives; made by the first call. Thread-safe. Errors:
  // NoMemory (no descriptor, or no /proc).
  Result<int> read_only() const;
  // This VM does not write the file any more, so other VMs may map it. (Blocks that are thawed may be written again,
  // see FramePool; the next freeze closes their file once more.) Release; acquire in closed().
  void close() const { closed_.store(true, std::memory_order_release); }
  bool closed() const { return closed_.load(std::memory_order_acquire); }
  // Unique in this process, never used again.
  std::uint64_t id() const { return id_; }

 private:
  MemoryFile(int descriptor, bool writable, std::shared_ptr<const void> keep);
  const int descriptor_;
  const std::shared_ptr<const void> keep_;  // null: the descriptor is its own
  const bool writable_;
  const std::uint64_t id_;
  mutable std::atomic<bool> closed_{false};
  mutable std::atomic<int> read_only_{-1};  // -1: not made yet. Release when it is made, acquire when it is used
};

// The part of a MemoryFile behind some frames, in bytes.
struct FilePart {
  std::shared_ptr<const MemoryFile> file;  // null: none, the memory is the VMM's alone
  std::uint64_t offset = 0, bytes = 0;
};

}  // namespace ramet::mm
