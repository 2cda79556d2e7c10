// A snapshot file, opened and checked: its header, state and lists before anything else, its pages when they are used.
#pragma once

#include <expected>
#include <memory>
#include <span>
#include <string>

#include "arch/guest_abi.hpp"
#include "vmm/error.hpp"
#include "vmm/linux/files/files.hpp"
#include "vmm/snapshot/format.hpp"
#include "vmm/snapshot/state.hpp"

namespace ramet::vmm::snapshot {

// Immutable, and so thread-safe. The file must not be changed in place while it is open (`ramet snapshot save` never
// does: it renames a new one over it).
class File {
 public:
  // With its parents, which are looked for where they were and beside the file. Errors: not there, not a snapshot, of
  // another version, of an unknown instruction set, damaged, a parent that is missing or is not the one it was.
  static std::expected<std::shared_ptr<const File>, Failure> open(const std::string& path);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const std::string& path() const { return path_; }
  const Header& header() const { return *reinterpret_cast<const Header*>(bytes_.data()); }
  const arch::GuestAbi& abi() const { return *abi_; }  // of the program
  const ProcessState& state() const { return state_; }
  std::span<const Run> runs() const { return runs_; }
  std::span<const Block> blocks() const { return blocks_; }
  const std::shared_ptr<const File>& parent() const { return parent_; }
  // The file itself, its parent, the parent's parent: what Run::source counts.
  const File* source(unsigned n) const;
  int descriptor() const { return fd_.get(); }

  // The pages of a block, and the bytes of the file that hold them.
  std::uint64_t pages_in(std::uint64_t block) const;
  std::span<const std::byte> stored(std::uint64_t block) const {
    return bytes_.subspan(blocks_[block].offset, blocks_[block].bytes);
  }
  // Errors: the block is damaged.
  Status check(std::uint64_t block) const;
  // check(), and then the pages of a compressed block; `out` has room for exactly them. Errors: damaged.
  Status unpack(std::uint64_t block, std::span<std::byte> out) const;
  // Every byte of the file and its parents. Errors: the first damage.
  Status verify() const;

 private:
  File() = default;
  static std::expected<std::shared_ptr<const File>, Failure> open(const std::string& path, unsigned depth);
  Status read_header();
  Status read_parts();
  Status find_parent(unsigned depth);
  Failure damaged(const std::string& what) const;

  std::string path_;
  HostFd fd_;
  std::span<const std::byte> bytes_;  // all of the file, mapped
  std::span<const Run> runs_;
  std::span<const Block> blocks_;
  const arch::GuestAbi* abi_ = nullptr;  // read_header()
  ProcessState state_;
  std::shared_ptr<const File> parent_;
};

std::string to_text(const Hash&);  // hexadecimal

// The failure for values in the file that no saved program has.
std::unexpected<Failure> impossible(const File&, std::string_view what);

}  // namespace ramet::vmm::snapshot
