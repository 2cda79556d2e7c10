// A file whose pages are guest memory: what a machine whose guests are host processes maps into them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "guest-mm/types.hpp"

namespace ramet::mm {

class MemoryFile {
 public:
  // Zero-filled, of the host's memory, taken as it is touched. Nobody who holds it can shrink it. Errors: NoMemory.
  static Result<std::shared_ptr<MemoryFile>> create(std::uint64_t size);
  // A file that somebody else opened, and that `keep` keeps open.
  static std::shared_ptr<MemoryFile> of(int descriptor, bool writable, std::shared_ptr<const void> keep);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  int descriptor() const { return descriptor_; }
  bool writable() const { return writable_; }
  // A descriptor of the same memory through which nobody can write, nor get one through which he could. Kept;
  // thread-safe. Errors: NoMemory (no descriptor, or no /proc).
  Result<int> read_only() const;
  // Nobody writes it any more: others may be given it. (What is thawed may be written again, see FramePool; it is
  // closed once more by the next freeze.) Release; acquire in closed().
  void close() const { closed_.store(true, std::memory_order_release); }
  bool closed() const { return closed_.load(std::memory_order_acquire); }
  // Different for all files there ever are in this process.
  std::uint64_t id() const { return id_; }

 private:
  MemoryFile(int descriptor, bool writable, std::shared_ptr<const void> keep);
  const int descriptor_;
  const std::shared_ptr<const void> keep_;  // null: the descriptor is its own
  const bool writable_;
  const std::uint64_t id_;
  mutable std::atomic<bool> closed_{false};
  mutable std::atomic<int> read_only_{-1};  // release when it is made, acquire by who uses it
};

// A part of one: what stands behind some frames.
struct FilePart {
  std::shared_ptr<const MemoryFile> file;  // null: none, the memory is the VMM's alone
  std::uint64_t offset = 0, bytes = 0;
};

}  // namespace ramet::mm
