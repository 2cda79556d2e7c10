// Mapped files: private mappings are read through the descriptor; a shared one is a host mapping that becomes a bank of
// guest memory. And truncation, which must never leave a mapping beyond the end of its file.
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/memory/shared.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/process.hpp"

namespace ramet::vmm {

class FileBacking : public mm::Backing, public std::enable_shared_from_this<FileBacking> {
 public:
  FileBacking(std::shared_ptr<OpenFile> file, dev_t device, ino_t inode, std::shared_ptr<MappedFiles> known)
      : device_(device), inode_(inode), file_(std::move(file)), known_(std::move(known)) {}

  // Puts the backing into the list that truncations look through.
  void announce() RAMET_EXCLUDES(known_->lock) {
    if (!known_) return;
    LockGuard guard(known_->lock);
    auto& all = known_->backings;
    // Sweeps when the list is about to grow: at most half of it is dead then.
    if (all.size() == all.capacity()) std::erase_if(all, [](const auto& b) { return b.expired(); });
    all.push_back(weak_from_this());
  }

  // Maps exactly the pages of [offset, offset+length) as a bank. Once.
  OrErrno<void> share(std::uint64_t offset, std::uint64_t length, mm::Memory& memory,
                      std::shared_ptr<HostMappings> mappings) {
    int prot = PROT_READ | ((file_->flags & O_ACCMODE) == O_RDWR ? PROT_WRITE : 0);
    auto host = HostMapping::make(std::move(mappings), length, prot, file_->host.get(), static_cast<off_t>(offset));
    if (!host) return err(host.error());
    // The bank keeps the host mapping until its last user is gone: an access may be in progress when the backing goes.
    auto bank = memory.make_bank((*host)->bytes(), [host = *host, file = file_] {},
                                 {.file = mm::MemoryFile::of(file_->host.get(), (prot & PROT_WRITE) != 0, file_),
                                  .offset = offset,
                                  .bytes = length});
    if (!bank) return err(errno_of(bank.error()));
    bank_ = std::move(*bank);
    bank_offset_ = offset;
    return {};
  }

  std::uint64_t size() const override {
    struct stat st;
    if (::fstat(file_->host.get(), &st) != 0) return 0;
    const auto size = static_cast<std::uint64_t>(st.st_size);
    recent_.store(size, std::memory_order_relaxed);
    // During a truncation the new size counts before the host's file has it.
    return std::min(size, limit_.load(std::memory_order_acquire));
  }

  std::uint64_t recent_size(std::uint64_t offset) const override {
    const std::uint64_t size = recent_.load(std::memory_order_relaxed);
    return offset < size ? std::min(size, limit_.load(std::memory_order_acquire)) : this->size();
  }

  mm::Result<> read(std::uint64_t offset, std::span<std::byte> dst) override {
    while (!dst.empty()) {
      if (offset > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max())) break;
      ssize_t n = ::pread(file_->host.get(), dst.data(), dst.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return mm::fail(mm::Error::Io);
      if (n == 0) {
        recent_.store(0, std::memory_order_relaxed);  // the file ends here, perhaps earlier than it did
        break;
      }
      dst = dst.subspan(static_cast<std::size_t>(n));
      offset += static_cast<std::uint64_t>(n);
    }
    std::ranges::fill(dst, std::byte{0});
    return {};
  }

  Shared shared() const override { return {bank_, bank_offset_}; }

  mm::Result<> sync(std::uint64_t offset, std::uint64_t length, bool wait) override {
    if (!bank_) return {};
    if (offset < bank_offset_ || offset - bank_offset_ >= bank_->size()) return mm::fail(mm::Error::Invalid);
    std::uint64_t start = mm::align_down(offset - bank_offset_, mm::kPageSize);
    length = std::min(length, bank_->size() - start);
    if (::msync(bank_->host() + start, length, wait ? MS_SYNC : MS_ASYNC) != 0) return mm::fail(mm::Error::Io);
    return {};
  }

  void residency(std::uint64_t offset, std::span<std::uint8_t> out) const override {
    if (bank_) {
      if (offset >= bank_offset_) add_residency({bank_->host(), bank_->size()}, offset - bank_offset_, out);
      return;
    }
    // Mapped for the question alone: the host tells residency of mappings only.
    const std::size_t bytes = out.size() * mm::kPageSize;
    void* const mapped = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, file_->host.get(),
                                static_cast<off_t>(offset));
    if (mapped == MAP_FAILED) return;
    add_residency({static_cast<std::byte*>(mapped), bytes}, 0, out);
    ::munmap(mapped, bytes);
  }

  Identity identity() const override {
    struct stat st;
    bool gone = ::fstat(file_->host.get(), &st) == 0 && st.st_nlink == 0;
    return {major(device_), minor(device_), inode_, gone ? file_->path + " (deleted)" : file_->path};
  }

  const std::shared_ptr<OpenFile>& file() const { return file_; }
  bool is(const struct stat& st) const { return st.st_dev == device_ && st.st_ino == inode_; }
  // Pairs with size()'s load: a fault after this sees the smaller size.
  void limit(std::uint64_t bytes) { limit_.store(bytes, std::memory_order_release); }

 private:
  const dev_t device_;
  const ino_t inode_;
  const std::shared_ptr<OpenFile> file_;
  const std::shared_ptr<MappedFiles> known_;  // null: the VMM's own, never truncated for the guest
  std::shared_ptr<mm::Bank> bank_;
  std::uint64_t bank_offset_ = 0;
  std::atomic<std::uint64_t> limit_{std::numeric_limits<std::uint64_t>::max()};
  // The host's size when it was last asked; 0: ask. Relaxed: what matters is what read() finds.
  mutable std::atomic<std::uint64_t> recent_{0};
};

namespace {

// What mmap(2) asks of a file before it looks at anything else.
OrErrno<struct stat> mappable(const OpenFile& file, bool shared, bool writable) {
  if (file.flags & O_PATH) return err(EBADF);
  int access = file.flags & O_ACCMODE;
  if (access == O_WRONLY || (shared && writable && access != O_RDWR)) return err(EACCES);
  struct stat st;
  if (::fstat(file.host.get(), &st) != 0) return err(errno);
  if (!S_ISREG(st.st_mode) || (file.kind != OpenFile::Kind::File && file.kind != OpenFile::Kind::Stdio))
    return err(ENODEV);
  return st;
}

bool is_zero_device(const OpenFile& file) {
  struct stat st;
  return file.kind == OpenFile::Kind::Device && ::fstat(file.host.get(), &st) == 0 && st.st_rdev == makedev(1, 5);
}

}  // namespace

OrErrno<std::shared_ptr<mm::Backing>> Files::private_backing(const std::shared_ptr<OpenFile>& file) {
  auto st = mappable(*file, false, false);
  if (!st) return err(st.error());
  return std::make_shared<FileBacking>(file, st->st_dev, st->st_ino, nullptr);
}

std::shared_ptr<OpenFile> Files::file_of(const mm::Backing& backing) {
  const auto* of_file = dynamic_cast<const FileBacking*>(&backing);
  return of_file ? of_file->file() : nullptr;
}

OrErrno<std::shared_ptr<mm::Backing>> Files::backing(const std::shared_ptr<OpenFile>& opened, bool shared,
                                                     bool writable, std::uint64_t& offset, std::uint64_t length,
                                                     mm::Memory& memory) {
  auto file = opened;
  if (file->operations) {
    auto shown = file->operations->mapped(offset, length);
    if (!shown) return err(shown.error());
    if (*shown) file = std::move(*shown);
  }
  if (is_zero_device(*file)) {
    if ((file->flags & O_ACCMODE) == O_WRONLY) return err(EACCES);
    return nullptr;
  }
  auto st = mappable(*file, shared, writable);
  if (!st) return err(st.error());
  constexpr auto kEnd = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
  if (length == 0 || offset % mm::kPageSize) return err(EINVAL);
  if (length > kEnd - mm::kPageSize || offset > kEnd - mm::kPageSize - length) return err(EOVERFLOW);
  auto backing = std::make_shared<FileBacking>(file, st->st_dev, st->st_ino, state_->mapped);
  backing->announce();
  if (shared) {
    auto done = backing->share(offset, mm::align_up(length, mm::kPageSize), memory, state_->mappings);
    if (!done) return err(done.error());
  }
  return backing;
}

OrErrno<std::shared_ptr<mm::Backing>> Files::shared_memory(std::uint64_t length, mm::AddressSpace& space) {
  auto charge = std::make_shared<MemoryCharge>(state_->account);
  {
    LockGuard guard(charge->lock);
    if (!charge->grow(length)) return err(ENOMEM);
  }
  length = mm::align_up(length, mm::kPageSize);
  // A memory file only where the machine maps it into another process: it takes a descriptor.
  std::shared_ptr<const mm::MemoryFile> file;
  if (space.physical().data().has_files()) {
    auto made = mm::MemoryFile::create(length);
    if (!made) return err(ENOMEM);
    file = std::move(*made);
  }
  auto host = HostMapping::make(state_->mappings, length, PROT_READ | PROT_WRITE, file ? file->descriptor() : -1, 0);
  if (!host) return err(ENOMEM);
  auto backing = SharedMemory::create(*host, std::move(file), std::move(charge), space.physical());
  if (!backing) return err(ENOMEM);
  return *backing;
}

std::int64_t truncating(Files::State& state, int fd, std::uint64_t new_size,
                        const std::function<std::int64_t()>& call) {
  LockGuard one_at_a_time(state.mapped->truncate_lock);
  struct stat st;
  if (::fstat(fd, &st) != 0) return -errno;
  std::vector<std::shared_ptr<FileBacking>> mapped;
  if (new_size < static_cast<std::uint64_t>(st.st_size)) {
    LockGuard guard(state.mapped->lock);
    for (const auto& weak : state.mapped->backings)
      if (auto backing = weak.lock(); backing && backing->is(st)) mapped.push_back(std::move(backing));
  }
  // Lifts the limits on every way out.
  struct Limited {
    const std::vector<std::shared_ptr<FileBacking>>& backings;
    ~Limited() {
      for (const auto& backing : backings) backing->limit(std::numeric_limits<std::uint64_t>::max());
    }
  } limited{mapped};
  for (const auto& backing : mapped) backing->limit(new_size);
  if (state.process && !mapped.empty())
    for (const auto& process : state.process->family.all()) {
      const auto image = process->image();
      if (!image) continue;
      // A process of the host that maps the file loses its pages at once by the host's truncation.
      const bool later = image->machine().waits();
      for (const auto& backing : mapped) {
        if (later) image->cuts.add(backing, new_size);
        else image->memory().truncated(*backing, new_size);
      }
      if (later) process->interrupt_threads();  // the caller makes it before its own code goes on
    }
  return call();
}

}  // namespace ramet::vmm
