#include "vmm/snapshot/pager.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <system_error>

#include "vmm/linux/memory/host_mapping.hpp"
#include "vmm/signals_blocked.hpp"

namespace ramet::vmm::snapshot {
namespace {

constexpr std::uint64_t kMostAhead = 8;            // blocks that one touch brings
constexpr std::size_t kMaxWorkingSet = 1u << 16;   // blocks
constexpr std::uint64_t kWorkingSetMagic = 0x31'53'57'54'45'4d'41'52;

std::unexpected<Failure> no_room(const File& file, int error) {
  return failure(fmt::format("no room for the pages of {}: {}", file.path(), std::strerror(error)));
}

// A userfaultfd that also reports faults of the kernel itself, such as KVM's.
HostFd new_userfaultfd() {
  HostFd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (device) {
    HostFd fd(::ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
    if (fd) return fd;
  }
  return HostFd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
}

}  // namespace

std::expected<std::shared_ptr<Pager>, Failure> Pager::create(const std::shared_ptr<const File>& file, Damaged damaged,
                                                             How how, bool in_files) {
  std::shared_ptr<Pager> pager(new Pager);
  pager->damaged_ = std::move(damaged);
  std::size_t files = 0;
  for (auto f = file; f; f = f->parent()) ++files;
  pager->ranges_ = std::vector<Range>(files);
  auto f = file;
  for (Range& range : pager->ranges_) {
    range.pager = pager.get();
    range.file = f;
    f = f->parent();
    range.bytes = range.file->header().payload_pages * kPageBytes;
    if (range.bytes == 0) continue;
    if (in_files)
      if (auto chosen = choose_file(range, how == How::Copied); !chosen) return std::unexpected(chosen.error());
    if (auto mapped = map(range); !mapped) return std::unexpected(mapped.error());
  }
  if (in_files && how == How::Lazily) return pager;
  if (how == How::Lazily)
    if (auto opened = pager->open_userfaultfd(); !opened) pager->not_lazy_ = opened.error().message, how = How::Checked;
  if (how != How::Lazily) {
    pager->userfaultfd_ = HostFd();  // also forgets what it knew of the ranges
    for (Range& range : pager->ranges_)
      if (auto read = read_all(range, how == How::Copied); !read) return std::unexpected(read.error());
    pager->all_there_ = true;
    return pager;
  }
  if (auto started = pager->start(); !started) return std::unexpected(started.error());
  return pager;
}

Pager::~Pager() {
  ending_.store(true, std::memory_order_relaxed);
  if (stop_) {
    const std::uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof one);  // an eventfd's first write cannot fail
  }
  threads_.clear();
  for (const Range& range : ranges_)
    if (range.host) ::munmap(range.host, range.bytes);
}

// A file on a file system mounted noexec cannot be mapped executable: its pages are copied.
Status Pager::choose_file(Range& range, bool copied) {
  const File& file = *range.file;
  struct statvfs system;
  const bool executable = ::fstatvfs(file.descriptor(), &system) == 0 && !(system.f_flag & ST_NOEXEC);
  range.copied = copied || file.header().compressed() || !executable;
  if (!range.copied) {
    range.part = {.file = mm::MemoryFile::of(file.descriptor(), false, range.file),
                  .offset = sizeof(Header),
                  .bytes = range.bytes};
    return {};
  }
  auto memory = mm::MemoryFile::create(range.bytes);
  if (!memory) return no_room(file, ENOMEM);
  (*memory)->close();
  range.part = {.file = std::move(*memory), .offset = 0, .bytes = range.bytes};
  return {};
}

Status Pager::map(Range& range) {
  const mm::FilePart& part = range.part;
  void* host = part.file ? ::mmap(nullptr, range.bytes, range.copied ? PROT_READ | PROT_WRITE : PROT_READ,
                                  MAP_SHARED | MAP_NORESERVE, part.file->descriptor(), static_cast<off_t>(part.offset))
                         : ::mmap(nullptr, range.bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (host == MAP_FAILED) return no_room(*range.file, errno);
  range.host = static_cast<std::byte*>(host);
  (void)::madvise(host, range.bytes, MADV_DONTDUMP);
  range.states = std::make_unique<std::atomic<std::uint8_t>[]>(range.file->blocks().size());
  return {};
}

Status Pager::Range::make_ready(std::uint64_t block) const {
  return copied ? file->unpack(block, this->block(block)) : file->check(block);
}

Status Pager::read_all(Range& range, bool copied) {
  if (range.part.file) {
    for (std::uint64_t i = 0; i < range.file->blocks().size(); ++i) {
      if (auto good = range.make_ready(i); !good) return good;
      range.states[i].store(There, std::memory_order_relaxed);
    }
    return {};
  }
  copied = copied || range.file->header().compressed();
  if (range.bytes && (copied ? ::mprotect(range.host, range.bytes, PROT_READ | PROT_WRITE) != 0
                             : ::mmap(range.host, range.bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED,
                                      range.file->descriptor(), sizeof(Header)) == MAP_FAILED))
    return no_room(*range.file, errno);
  for (std::uint64_t i = 0; i < range.file->blocks().size(); ++i) {
    if (auto good = copied ? range.file->unpack(i, range.block(i)) : range.file->check(i); !good) return good;
    range.states[i].store(There, std::memory_order_relaxed);
  }
  return {};
}

Status Pager::open_userfaultfd() {
  userfaultfd_ = new_userfaultfd();
  if (!userfaultfd_)
    return failure(fmt::format(
        "this host gives no userfaultfd: {} (as root, or with the sysctl vm.unprivileged_userfaultfd=1, it does)",
        std::strerror(errno)));
  uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
  if (::ioctl(userfaultfd_.get(), UFFDIO_API, &api) != 0)
    return failure(fmt::format("userfaultfd: {}", std::strerror(errno)));
  for (const Range& range : ranges_) {
    if (range.bytes == 0) continue;
    uffdio_register all{.range = {reinterpret_cast<std::uint64_t>(range.host), range.bytes},
                        .mode = UFFDIO_REGISTER_MODE_MISSING,
                        .ioctls = 0};
    if (::ioctl(userfaultfd_.get(), UFFDIO_REGISTER, &all) != 0)
      return failure(fmt::format("userfaultfd: {}", std::strerror(errno)));
  }
  return {};
}

Status Pager::start() try {
  stop_ = HostFd(::eventfd(0, EFD_CLOEXEC));
  if (!stop_) return failure(fmt::format("the host gives no eventfd: {}", std::strerror(errno)));
  SignalsBlocked blocked;
  const unsigned count = std::clamp(std::thread::hardware_concurrency(), 2u, 4u);
  for (unsigned i = 0; i < count; ++i) threads_.emplace_back([this] { answer(); });
  return {};
} catch (const std::system_error& e) {
  return failure(fmt::format("the host cannot start threads to serve pages: {}", e.what()));
}

void Pager::answer() {
  std::array<pollfd, 2> wanted{{{.fd = userfaultfd_.get(), .events = POLLIN, .revents = 0},
                                {.fd = stop_.get(), .events = POLLIN, .revents = 0}}};
  for (;;) {
    if (::poll(wanted.data(), wanted.size(), -1) < 0) continue;
    if (wanted[1].revents) return;
    uffd_msg message;
    if (::read(userfaultfd_.get(), &message, sizeof message) != sizeof message) continue;  // another thread has it
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    const std::uint64_t address = message.arg.pagefault.address;
    Range& range = *std::ranges::find_if(ranges_, [&](const Range& r) {
      return address - reinterpret_cast<std::uint64_t>(r.host) < r.bytes;
    });
    touched(range, (address - reinterpret_cast<std::uint64_t>(range.host)) / kBlockBytes);
  }
}

void Pager::Range::bring(std::uint64_t start, std::uint64_t end) {
  for (std::uint64_t block = start / kBlockBytes; block * kBlockBytes < end; ++block) {
    if (is_there(block)) continue;
    pager->touched(*this, block);
    states[block].wait(Taken, std::memory_order_acquire);
  }
}

mm::Range Pager::Range::there(std::uint64_t at, mm::Range within) const {
  std::uint64_t first = at / kBlockBytes, last = first + 1;
  if (!is_there(first)) return {at, at};
  while (first * kBlockBytes > within.start && is_there(first - 1)) --first;
  while (last * kBlockBytes < within.end && is_there(last)) ++last;
  return {std::max(first * kBlockBytes, within.start), std::min(last * kBlockBytes, within.end)};
}

mm::Result<std::shared_ptr<mm::Bank>> Pager::make_bank(const std::shared_ptr<Pager>& pager, std::size_t source,
                                                       mm::Memory& memory) {
  Range& range = pager->ranges_[source];
  return memory.make_bank(pager->pages(source), [pager] {}, range.part, range.part.file ? &range : nullptr);
}

void Pager::touched(Range& range, std::uint64_t block) {
  faults_.fetch_add(1, std::memory_order_relaxed);
  if (range.states[block].load(std::memory_order_relaxed) == Empty) {
    LockGuard guard(lock_);
    try {
      if (order_.size() < kMaxWorkingSet)
        order_.push_back(static_cast<std::uint64_t>(&range - ranges_.data()) << 32 | block);
    } catch (const std::bad_alloc&) {
      // The list is only a hint.
    }
  }
  if (!serve(range, block)) {
    // The thread that took the block wakes those who wait for it, once; this fault may have come after that.
    if (range.is_there(block)) wake(range, block);
    return;
  }
  // Read-ahead: the window doubles while memory is touched sequentially.
  const bool onwards = range.next.load(std::memory_order_relaxed) == block;
  const std::uint64_t window = onwards ? std::min(2 * range.window.load(std::memory_order_relaxed), kMostAhead) : 1;
  range.window.store(window, std::memory_order_relaxed);
  range.next.store(block + window, std::memory_order_relaxed);
  const std::uint64_t end = std::min<std::uint64_t>(block + window, range.file->blocks().size());
  for (std::uint64_t more = block + 1; more < end; ++more)
    if (serve(range, more)) ahead_.fetch_add(1, std::memory_order_relaxed);
}

bool Pager::serve(Range& range, std::uint64_t block) {
  std::uint8_t state = Empty;
  if (!range.states[block].compare_exchange_strong(state, Taken, std::memory_order_acquire)) return false;
  put(range, block);
  range.states[block].store(There, std::memory_order_release);
  wake(range, block);
  blocks_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

void Pager::put(Range& range, std::uint64_t block) {
  const std::span<std::byte> place = range.block(block);
  const File& file = *range.file;
  if (range.part.file) {
    if (auto good = range.make_ready(block); !good) damaged(good.error());
    return;
  }
  if (!file.header().compressed()) {
    if (auto good = file.check(block); !good) damaged(good.error());
    const auto offset = static_cast<off_t>(file.blocks()[block].offset);
    // At most an eighth of the mappings that the host allows, as the guest decides how many blocks are touched.
    if (mapped_.fetch_add(1, std::memory_order_relaxed) < HostMappings::host_limit() / 8 &&
        ::mmap(place.data(), place.size(), PROT_READ, MAP_PRIVATE | MAP_FIXED | MAP_POPULATE, file.descriptor(),
               offset) != MAP_FAILED)
      return;
    // Too many mappings (vm.max_map_count): copy.
  }
  thread_local std::vector<std::byte> aside(kBlockBytes);
  if (auto good = file.unpack(block, std::span(aside).first(place.size())); !good) damaged(good.error());
  for (std::uint64_t done = 0; done < place.size();) {
    uffdio_copy copy{.dst = reinterpret_cast<std::uint64_t>(place.data()) + done,
                     .src = reinterpret_cast<std::uint64_t>(aside.data()) + done,
                     .len = place.size() - done,
                     .mode = UFFDIO_COPY_MODE_DONTWAKE,
                     .copy = 0};
    if (::ioctl(userfaultfd_.get(), UFFDIO_COPY, &copy) == 0) return;
    // EAGAIN: another thread changes mappings meanwhile.
    if (errno != EAGAIN)
      damaged({.message = fmt::format("the host has no memory for the pages of {}: {}", file.path(),
                                      std::strerror(errno))});
    if (copy.copy > 0) done += static_cast<std::uint64_t>(copy.copy);
  }
}

void Pager::wake(const Range& range, std::uint64_t block) const {
  if (range.part.file) return range.states[block].notify_all();
  const std::span<std::byte> place = range.block(block);
  uffdio_range all{reinterpret_cast<std::uint64_t>(place.data()), place.size()};
  (void)::ioctl(userfaultfd_.get(), UFFDIO_WAKE, &all);  // cannot fail: the range is registered
}

void Pager::damaged(const Failure& failure) const {
  damaged_(failure);
  std::abort();
}

// --- the working set: a file of 64-bit words: magic, identity of the snapshot, hash of what follows, blocks ---

void Pager::fetch_ahead() {
  if (all_there_) return;
  std::ifstream in(working_set_path(), std::ios::binary);
  std::array<std::uint64_t, 4> head{};
  std::vector<std::uint64_t> blocks(kMaxWorkingSet);
  in.read(reinterpret_cast<char*>(head.data()), sizeof head);
  in.read(reinterpret_cast<char*>(blocks.data()), static_cast<std::streamsize>(blocks.size() * sizeof(std::uint64_t)));
  blocks.resize(static_cast<std::size_t>(in.gcount()) / sizeof(std::uint64_t));
  const Hash& identity = ranges_[0].file->header().identity;
  if (head[0] != kWorkingSetMagic || head[1] != identity[0] || head[2] != identity[1] ||
      head[3] != short_hash_of(std::as_bytes(std::span(blocks))))
    return;
  SignalsBlocked blocked;
  threads_.emplace_back([this, blocks = std::move(blocks)] {
    for (const std::uint64_t entry : blocks) {
      const std::uint64_t source = entry >> 32, block = entry & 0xffff'ffff;
      if (ending_.load(std::memory_order_relaxed)) return;
      if (source < ranges_.size() && block < ranges_[source].file->blocks().size() && serve(ranges_[source], block))
        ahead_.fetch_add(1, std::memory_order_relaxed);
    }
  });
}

void Pager::keep_working_set() const {
  std::vector<std::uint64_t> words;
  {
    LockGuard guard(lock_);
    words = order_;
  }
  if (words.empty() || ::access(working_set_path().c_str(), F_OK) == 0) return;
  const Hash& identity = ranges_[0].file->header().identity;
  const std::uint64_t hash = short_hash_of(std::as_bytes(std::span(words)));
  words.insert(words.begin(), {kWorkingSetMagic, identity[0], identity[1], hash});
  std::ofstream out(working_set_path(), std::ios::binary);
  out.write(reinterpret_cast<const char*>(words.data()),
            static_cast<std::streamsize>(words.size() * sizeof(std::uint64_t)));
}

Pager::Counts Pager::counts() const {
  return {faults_.load(std::memory_order_relaxed), blocks_.load(std::memory_order_relaxed),
          ahead_.load(std::memory_order_relaxed)};
}

}  // namespace ramet::vmm::snapshot
