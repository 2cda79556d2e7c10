#include "vmm/snapshot/pipes.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace ramet::vmm::snapshot {
namespace {

constexpr int kMostBytes = 1 << 20;                    // of one pipe, as F_SETPIPE_SZ allows
constexpr std::uint64_t kMostContents = 16ull << 20;   // of all: kMaxState holds them in hexadecimal

}  // namespace

std::expected<void, std::string> PipesToSave::describe(const OpenFile& file, FileState& f) {
  const int host = file.host.get();
  struct stat st;
  const int bytes = ::fcntl(host, F_GETPIPE_SZ);
  if (::fstat(host, &st) != 0 || bytes < 0)
    return std::unexpected("is a pipe of which this host does not tell what it can hold");
  auto pipe = std::ranges::find(known_, st.st_ino, &Known::inode);
  if (pipe == known_.end()) {
    pipe = known_.insert(pipe, {.inode = st.st_ino});
    state_.pipes.push_back({.bytes = bytes, .contents = {}});
  }
  if ((file.flags & O_ACCMODE) != O_WRONLY) pipe->reader = host;
  f.pipe = static_cast<int>(pipe - known_.begin());
  return {};
}

std::expected<void, std::string> PipesToSave::take_contents() {
  std::uint64_t taken = 0;
  for (std::size_t i = 0; i < known_.size(); ++i) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(state_.pipes[i].bytes));
    for (pollfd readable{.fd = known_[i].reader, .events = POLLIN, .revents = 0};
         ::poll(&readable, 1, 0) == 1 && (readable.revents & POLLIN);) {
      const ssize_t n = ::read(readable.fd, bytes.data(), bytes.size());  // all of it, or a packet
      if (n <= 0) return std::unexpected("has a pipe that cannot be read");
      taken += static_cast<std::uint64_t>(n);
      if (taken > kMostContents)
        return std::unexpected(fmt::format("has more than {} MiB in pipes", kMostContents >> 20));
      state_.pipes[i].contents.push_back(to_hex(std::span(bytes).first(static_cast<std::size_t>(n))));
    }
  }
  return {};
}

std::expected<std::shared_ptr<OpenFile>, Failure> PipesToRestore::open(const FileState& f) {
  const int access = f.flags & O_ACCMODE;
  if (!index_ok(f.pipe, pipes_.size()) || access == O_ACCMODE) return impossible(file_, "pipes");
  const PipeState& saved = file_.state().pipes[static_cast<std::size_t>(f.pipe)];
  Pipe& pipe = pipes_[static_cast<std::size_t>(f.pipe)];
  const bool first = !pipe.reader;
  if (first)
    if (auto made = make(pipe, saved); !made) return std::unexpected(made.error());
  const auto cannot = [&](int error) {
    return failure(
        fmt::format("{} cannot be continued: its pipes cannot be made: {}", file_.path(), std::strerror(error)));
  };
  HostFd end = pipe.end(access);
  if (!end) return cannot(errno);
  auto opened = make_file(OpenFile::Kind::Pipe, std::move(end), access);
  opened->charged = pipe.charged;
  // charge() makes the pipe smaller if the family has no room for it.
  if (!files_.charge(*opened) || ::fcntl(pipe.reader.get(), F_GETPIPE_SZ) < saved.bytes) return cannot(ENFILE);
  if (!first) return opened;
  pipe.charged = opened->charged;
  // Several pieces were packets even if no end has O_DIRECT any more.
  const bool packets = saved.contents.size() > 1 ||
                       std::ranges::any_of(file_.state().files, [&](const FileState& other) {
                         return other.pipe == f.pipe && (other.flags & O_DIRECT);
                       });
  if (auto put = put_contents(pipe, saved, packets); !put) return std::unexpected(put.error());
  return opened;
}

HostFd PipesToRestore::Pipe::end(int access) {
  bool& taken = access == O_RDONLY ? reader_taken : writer_taken;
  const HostFd& made = access == O_RDONLY ? reader : writer;
  // Each further file has flags of its own, and so needs an open file description of its own.
  if (access == O_RDWR || std::exchange(taken, true))
    return HostFd(::open(fd_path(made.get()).c_str(), access | O_NONBLOCK | O_CLOEXEC));
  return HostFd(::fcntl(made.get(), F_DUPFD_CLOEXEC, 0));
}

Status PipesToRestore::make(Pipe& pipe, const PipeState& saved) {
  if (saved.bytes < static_cast<int>(mm::kPageSize) || saved.bytes > kMostBytes) return impossible(file_, "pipes");
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
    return failure(
        fmt::format("{} cannot be continued: its pipes cannot be made: {}", file_.path(), std::strerror(errno)));
  pipe.reader = HostFd(ends[0]), pipe.writer = HostFd(ends[1]);
  if (::fcntl(ends[0], F_GETPIPE_SZ) == saved.bytes || ::fcntl(ends[0], F_SETPIPE_SZ, saved.bytes) >= 0) return {};
  return failure(fmt::format("{} cannot be continued: the host allows no more large pipes", file_.path()));
}

Status PipesToRestore::put_contents(Pipe& pipe, const PipeState& saved, bool packets) {
  const int writer = pipe.writer.get();
  if (packets && ::fcntl(writer, F_SETFL, O_NONBLOCK | O_DIRECT) != 0) return impossible(file_, "pipes");
  std::vector<std::byte> bytes(static_cast<std::size_t>(saved.bytes));
  for (const std::string& piece : saved.contents) {
    if (!from_hex(piece, bytes)) return impossible(file_, "pipes");
    const std::size_t length = piece.size() / 2;
    if (::write(writer, bytes.data(), length) != static_cast<ssize_t>(length)) return impossible(file_, "pipes");
  }
  return {};
}

}  // namespace ramet::vmm::snapshot
