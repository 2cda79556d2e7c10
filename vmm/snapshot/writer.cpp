#include "vmm/snapshot/writer.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace ramet::vmm::snapshot {

std::expected<std::unique_ptr<Writer>, Failure> Writer::create(const std::string& path, const arch::GuestAbi& abi,
                                                               bool compress) {
  std::unique_ptr<Writer> writer(new Writer);
  writer->path_ = path;
  writer->machine_ = abi.elf_machine;
  writer->compress_ = compress;
  std::string name = path + ".partial-XXXXXX";
  writer->fd_ = HostFd(::mkostemp(name.data(), O_CLOEXEC));  // readable by its owner alone, as memory is
  if (!writer->fd_) return failure(fmt::format("cannot write {}: {}", path, std::strerror(errno)));
  writer->partial_ = std::move(name);
  if (::lseek(writer->fd_.get(), sizeof(Header), SEEK_SET) < 0) return std::unexpected(writer->cannot_write());
  return writer;
}

Writer::~Writer() {
  if (!partial_.empty()) ::unlink(partial_.c_str());
}

Failure Writer::cannot_write() const {
  return {.message = fmt::format("cannot write {}: {}", path_, std::strerror(errno))};
}

Status Writer::put(std::span<const std::byte> bytes) {
  offset_ += bytes.size();
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return std::unexpected(cannot_write());
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return {};
}

Status Writer::put_block() {
  std::span<const std::byte> stored = block_;
  if (compress_) {
    packed_.resize(ZSTD_compressBound(block_.size()));
    const std::size_t size = ZSTD_compress(packed_.data(), packed_.size(), block_.data(), block_.size(), 1);
    if (ZSTD_isError(size)) return failure(fmt::format("cannot compress: {}", ZSTD_getErrorName(size)));
    stored = std::span(packed_).first(size);
  }
  blocks_.push_back({offset_, stored.size(), short_hash_of(stored)});
  if (auto done = put(stored); !done) return done;
  block_.clear();
  return {};
}

Status Writer::add(std::span<const std::byte> page) {
  if (pages_ == kMaxPages) return failure("the program has more memory than a snapshot file can hold");
  block_.insert(block_.end(), page.begin(), page.end());
  ++pages_;
  return block_.size() == kBlockBytes ? put_block() : Status{};
}

Status Writer::skip(std::uint64_t pages) {
  static constexpr std::array<std::byte, kPageBytes> kZeroes{};
  for (; pages; --pages)
    if (auto done = add(kZeroes); !done) return done;
  return {};
}

Status Writer::finish(std::string_view state, std::span<const Run> runs, const Hash& parent) {
  if (!block_.empty())
    if (auto done = put_block(); !done) return done;
  static constexpr std::array<std::byte, alignof(Run)> kZeroes{};
  if (auto done = put(std::span(kZeroes).first(-offset_ % alignof(Run))); !done) return done;
  std::string padded(state);  // white space means nothing in JSON
  padded.resize((padded.size() + alignof(Run) - 1) / alignof(Run) * alignof(Run), ' ');
  Header header;
  header.flags = compress_ ? kCompressed : 0;
  header.machine = machine_;
  header.payload_pages = pages_;
  header.parent = parent;
  const auto part = [&](Part& where, std::span<const std::byte> bytes) -> Status {
    where = {offset_, bytes.size(), hash_of(bytes)};
    return put(bytes);
  };
  if (auto done = part(header.state, std::as_bytes(std::span(padded))); !done) return done;
  if (auto done = part(header.runs, std::as_bytes(runs)); !done) return done;
  if (auto done = part(header.blocks, std::as_bytes(std::span(blocks_))); !done) return done;
  header.file_bytes = offset_;
  header.identity = identity_of(header);
  if (::pwrite(fd_.get(), &header, sizeof header, 0) != sizeof header || ::fsync(fd_.get()) != 0 ||
      ::rename(partial_.c_str(), path_.c_str()) != 0)
    return std::unexpected(cannot_write());
  partial_.clear();
  const std::size_t cut = path_.rfind('/');
  const HostFd directory(
      ::open(cut == path_.npos ? "." : path_.substr(0, cut + 1).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory || ::fsync(directory.get()) != 0) return std::unexpected(cannot_write());
  return {};
}

}  // namespace ramet::vmm::snapshot
