// Writing a snapshot file: under another name until all of it is on the disk, so that whatever happens meanwhile leaves
// the file that was there before, or none.
#pragma once

#include <expected>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "arch/guest_abi.hpp"
#include "vmm/error.hpp"
#include "vmm/linux/files/files.hpp"
#include "vmm/snapshot/format.hpp"

namespace ramet::vmm::snapshot {

class Writer {
 public:
  // Of a program for that ABI. Errors: the directory cannot be written.
  static std::expected<std::unique_ptr<Writer>, Failure> create(const std::string& path, const arch::GuestAbi&,
                                                                bool compress);
  // Removes what was not finished.
  ~Writer();
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  // The number that the next page will have.
  std::uint64_t pages() const { return pages_; }
  // Adds a page. Errors: the host cannot write, or the file has kMaxPages.
  Status add(std::span<const std::byte> page);
  // Adds so many pages of zeroes. Errors: as of add().
  Status skip(std::uint64_t pages);
  // Writes the other parts, syncs, and gives the file its name. Once. Errors: the host cannot write.
  Status finish(std::string_view state, std::span<const Run>, const Hash& parent);

 private:
  Writer() = default;
  Status put(std::span<const std::byte>);
  Status put_block();
  Failure cannot_write() const;

  std::string path_, partial_;
  HostFd fd_;
  std::uint32_t machine_ = 0;
  bool compress_ = false;
  std::uint64_t offset_ = sizeof(Header), pages_ = 0;
  std::vector<std::byte> block_, packed_;
  std::vector<Block> blocks_;
};

}  // namespace ramet::vmm::snapshot
