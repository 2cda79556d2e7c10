// Opening snapshot files: nothing in one is believed before its hash and its bounds were looked at.
#include "vmm/snapshot/file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "vmm/linux/program/elf.hpp"

namespace ramet::vmm::snapshot {

std::string to_text(const Hash& hash) { return fmt::format("{:016x}{:016x}", hash[1], hash[0]); }

std::unexpected<Failure> impossible(const File& file, std::string_view what) {
  return failure(fmt::format("{} is no snapshot that ramet wrote: its {} cannot be", file.path(), what));
}

File::~File() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

Failure File::damaged(const std::string& what) const {
  return {.message = fmt::format("{} is damaged: {}", path_, what)};
}

std::expected<std::shared_ptr<const File>, Failure> File::open(const std::string& path) { return open(path, 0); }

std::expected<std::shared_ptr<const File>, Failure> File::open(const std::string& path, unsigned depth) {
  std::shared_ptr<File> file(new File);
  file->path_ = path;
  file->fd_ = HostFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat st;
  if (!file->fd_ || ::fstat(file->fd_.get(), &st) != 0)
    return failure(fmt::format("cannot open {}: {}", path, std::strerror(errno)));
  if (!S_ISREG(st.st_mode)) return failure(fmt::format("{} is not a snapshot file", path));
  const auto size = static_cast<std::uint64_t>(st.st_size);
  if (size < sizeof(Header)) return failure(fmt::format("{} is not a snapshot file: it is too short", path));
  void* bytes = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file->fd_.get(), 0);
  if (bytes == MAP_FAILED) return failure(fmt::format("cannot map {}: {}", path, std::strerror(errno)));
  file->bytes_ = {static_cast<const std::byte*>(bytes), size};
  if (auto read = file->read_header(); !read) return std::unexpected(read.error());
  if (auto read = file->read_parts(); !read) return std::unexpected(read.error());
  if (auto found = file->find_parent(depth); !found) return std::unexpected(found.error());
  return file;
}

Status File::read_header() {
  const Header& h = header();
  if (h.magic != kMagic) return failure(fmt::format("{} is not a snapshot file", path_));
  if (h.version != kVersion)
    return failure(
        fmt::format("{} is a snapshot of version {}; this ramet knows version {}", path_, h.version, kVersion));
  if (h.identity != identity_of(h))
    return std::unexpected(damaged("its header does not have the checksum it should have"));
  if (h.file_bytes != bytes_.size())
    return std::unexpected(damaged(fmt::format("it has {} bytes and should have {}", bytes_.size(), h.file_bytes)));
  if (h.flags & ~kCompressed) return std::unexpected(damaged("it has flags that its version does not know"));
  abi_ = arch::find_guest_abi(h.machine);
  if (!abi_)
    return failure(fmt::format("{} is a snapshot of a program for {}, which this ramet does not know", path_,
                               elf_machine_name(h.machine)));
  return {};
}

Status File::read_parts() {
  const Header& h = header();
  const auto part = [&](const Part& p, const char* name) -> std::expected<std::span<const std::byte>, Failure> {
    if (p.offset < sizeof(Header) || p.offset % alignof(Run) || p.offset > bytes_.size() ||
        p.bytes > bytes_.size() - p.offset)
      return std::unexpected(damaged(fmt::format("its {} reach beyond its end", name)));
    const auto bytes = bytes_.subspan(p.offset, p.bytes);
    if (hash_of(bytes) != p.hash)
      return std::unexpected(damaged(fmt::format("its {} do not have the checksum they should have", name)));
    return bytes;
  };
  const auto runs = part(h.runs, "lists"), blocks = part(h.blocks, "block tables"),
             state = part(h.state, "process states");
  for (const auto* p : {&runs, &blocks, &state})
    if (!*p) return std::unexpected(p->error());
  if (h.payload_pages > kMaxPages ||
      blocks->size() != sizeof(Block) * ((h.payload_pages + kBlockPages - 1) / kBlockPages) ||
      runs->size() % sizeof(Run) || state->size() > kMaxState)
    return std::unexpected(damaged("its parts have sizes that cannot be"));
  runs_ = {reinterpret_cast<const Run*>(runs->data()), runs->size() / sizeof(Run)};
  blocks_ = {reinterpret_cast<const Block*>(blocks->data()), blocks->size() / sizeof(Block)};
  std::uint64_t offset = sizeof(Header);  // blocks follow each other without a gap: no byte is left out
  for (std::uint64_t i = 0; i < blocks_.size(); ++i) {
    const Block& b = blocks_[i];
    if (b.offset != offset || b.bytes > bytes_.size() - offset || b.bytes > kBlockBytes + kPageBytes ||
        (!h.compressed() && b.bytes != pages_in(i) * kPageBytes))
      return std::unexpected(damaged("its blocks do not lie where they should"));
    offset += b.bytes;
  }
  const std::uint64_t padding = h.state.offset - offset;  // up to the next multiple of eight bytes
  if (h.state.offset < offset || padding >= alignof(Run))
    return std::unexpected(damaged("its parts do not lie where they should"));
  if (std::ranges::any_of(bytes_.subspan(offset, padding), [](std::byte b) { return b != std::byte{0}; }))
    return std::unexpected(damaged("there is something between its parts"));
  if (h.runs.offset != h.state.offset + h.state.bytes || h.blocks.offset != h.runs.offset + h.runs.bytes ||
      h.file_bytes != h.blocks.offset + h.blocks.bytes)
    return std::unexpected(damaged("its parts do not lie where they should"));
  auto read = from_text({reinterpret_cast<const char*>(state->data()), state->size()});
  if (!read) return std::unexpected(damaged(read.error().message));
  state_ = std::move(*read);
  for (FileState& f : state_.files)
    f.flags = static_cast<int>(abi_->open_flags_to_host(static_cast<unsigned>(f.flags)));
  return {};
}

Status File::find_parent(unsigned depth) {
  if (header().parent == Hash{}) return {};
  if (depth == kMaxParents) return failure(fmt::format("{} has more than {} parents", path_, kMaxParents));
  std::error_code missing;
  std::filesystem::path place = state_.parent;
  if (!std::filesystem::exists(place, missing)) place = std::filesystem::path(path_).parent_path() / place.filename();
  auto opened = open(place.string(), depth + 1);
  if (!opened) return failure(fmt::format("{} needs its parent {}: {}", path_, state_.parent, opened.error().message));
  if ((*opened)->header().identity != header().parent)
    return failure(fmt::format("{} needs another parent: {} is {} now, and not {}", path_, place.string(),
                               to_text((*opened)->header().identity), to_text(header().parent)));
  parent_ = std::move(*opened);
  return {};
}

const File* File::source(unsigned n) const {
  const File* file = this;
  while (n-- && file) file = file->parent_.get();
  return file;
}

std::uint64_t File::pages_in(std::uint64_t block) const {
  return std::min(kBlockPages, header().payload_pages - block * kBlockPages);
}

Status File::check(std::uint64_t block) const {
  if (short_hash_of(stored(block)) == blocks_[block].hash) return {};
  return std::unexpected(damaged(fmt::format("the {} bytes from {} on do not have the checksum they should have",
                                             blocks_[block].bytes, blocks_[block].offset)));
}

Status File::unpack(std::uint64_t block, std::span<std::byte> out) const {
  if (auto good = check(block); !good) return good;
  const auto in = stored(block);
  if (!header().compressed()) {
    std::memcpy(out.data(), in.data(), out.size());
    return {};
  }
  if (ZSTD_decompress(out.data(), out.size(), in.data(), in.size()) == out.size()) return {};
  return std::unexpected(
      damaged(fmt::format("the {} bytes from {} on cannot be decompressed", in.size(), blocks_[block].offset)));
}

Status File::verify() const {
  for (const File* file = this; file; file = file->parent_.get()) {
    std::vector<std::byte> pages;
    for (std::uint64_t i = 0; i < file->blocks_.size(); ++i) {
      pages.resize(file->pages_in(i) * kPageBytes);
      if (auto good = file->header().compressed() ? file->unpack(i, pages) : file->check(i); !good) return good;
    }
  }
  return {};
}

}  // namespace ramet::vmm::snapshot
