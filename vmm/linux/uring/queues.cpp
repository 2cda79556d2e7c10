// The queues of a guest's ring; see the header.
#include "vmm/linux/uring/queues.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "arch/guarded.hpp"
#include "vmm/linux/files/state.hpp"

namespace ramet::vmm {

// Words that the guest writes and words that the VMM writes lie in different cache lines.
struct UringQueues::Rings {
  alignas(64) std::uint32_t sq_head;
  alignas(64) std::uint32_t sq_tail;
  alignas(64) std::uint32_t sq_mask;
  std::uint32_t sq_entries, sq_flags, sq_dropped;
  alignas(64) std::uint32_t cq_head;
  alignas(64) std::uint32_t cq_tail;
  alignas(64) std::uint32_t cq_mask;
  std::uint32_t cq_entries, cq_overflow, cq_flags;
  alignas(64) Completion completions[1];        // cq_entries of them, then the array of indexes
};

namespace {

// A failed store harms the guest alone.
void store(std::uint32_t& word, std::uint32_t value) { (void)arch::guarded_store(&word, value); }

std::span<std::byte> map(int fd, std::uint64_t offset, std::uint64_t length) {
  void* at = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(offset));
  if (at == MAP_FAILED) return {};
  return {static_cast<std::byte*>(at), length};
}

}  // namespace

std::uint64_t UringQueues::array_offset(unsigned cq) { return offsetof(Rings, completions) + cq * sizeof(Completion); }

std::uint64_t UringQueues::bytes(unsigned sq, unsigned cq) {
  return mm::align_up(array_offset(cq) + sq * sizeof(std::uint32_t), mm::kPageSize) +
         mm::align_up(sq * sizeof(io_uring_sqe), mm::kPageSize);
}

OrErrno<std::unique_ptr<UringQueues>> UringQueues::create(unsigned sq, unsigned cq) {
  const std::uint64_t entries = mm::align_up(sq * sizeof(io_uring_sqe), mm::kPageSize), rings = bytes(sq, cq) - entries;
  HostFd host(static_cast<int>(::memfd_create("io_uring", MFD_CLOEXEC | MFD_ALLOW_SEALING)));
  if (!host) return err(errno);
  // All memory is allocated now and the size sealed: accesses of the VMM must not fail later. A kick of the vCPU
  // interrupts fallocate(2).
  const auto reserve = [&](off_t offset, std::uint64_t length) {
    int r;
    do r = ::fallocate(host.get(), 0, offset, static_cast<off_t>(length));
    while (r != 0 && errno == EINTR);
    return r == 0;
  };
  if (!reserve(0, rings) || !reserve(IORING_OFF_SQES, entries) ||
      ::fcntl(host.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW) != 0)
    return err(errno == ENOSPC ? ENOMEM : errno);
  std::unique_ptr<UringQueues> queues(new UringQueues(sq, cq));
  queues->rings_bytes_ = map(host.get(), IORING_OFF_SQ_RING, rings);
  queues->entries_ = map(host.get(), IORING_OFF_SQES, entries);
  if (queues->rings_bytes_.empty() || queues->entries_.empty()) return err(errno);
  queues->file_ = make_file(OpenFile::Kind::File, std::move(host), O_RDWR, "anon_inode:[io_uring]");
  queues->rings_ = reinterpret_cast<Rings*>(queues->rings_bytes_.data());
  Rings& s = *queues->rings_;
  s.sq_mask = sq - 1, s.sq_entries = sq, s.cq_mask = cq - 1, s.cq_entries = cq;
  return queues;
}

UringQueues::~UringQueues() {
  for (auto mapping : {rings_bytes_, entries_})
    if (!mapping.empty()) ::munmap(mapping.data(), mapping.size());
}

OrErrno<std::uint64_t> UringQueues::place(std::uint64_t offset, std::uint64_t length) const {
  switch (offset) {
    case IORING_OFF_SQ_RING:
    case IORING_OFF_CQ_RING:
      if (length > rings_bytes_.size()) return err(EINVAL);
      return IORING_OFF_SQ_RING;
    case IORING_OFF_SQES:
      if (length > entries_.size()) return err(EINVAL);
      return offset;
    default: return err(EINVAL);
  }
}

void UringQueues::describe(io_sqring_offsets& sq, io_cqring_offsets& cq) const {
  sq = {.head = offsetof(Rings, sq_head),
        .tail = offsetof(Rings, sq_tail),
        .ring_mask = offsetof(Rings, sq_mask),
        .ring_entries = offsetof(Rings, sq_entries),
        .flags = offsetof(Rings, sq_flags),
        .dropped = offsetof(Rings, sq_dropped),
        .array = static_cast<std::uint32_t>(array_offset(cq_entries_)),
        .resv1 = 0,
        .resv2 = 0};
  cq = {.head = offsetof(Rings, cq_head),
        .tail = offsetof(Rings, cq_tail),
        .ring_mask = offsetof(Rings, cq_mask),
        .ring_entries = offsetof(Rings, cq_entries),
        .overflow = offsetof(Rings, cq_overflow),
        .cqes = offsetof(Rings, completions),
        .flags = offsetof(Rings, cq_flags),
        .resv1 = 0,
        .resv2 = 0};
}

unsigned UringQueues::submissions() const {
  const auto tail = arch::guarded_load(&rings_->sq_tail);
  return tail ? std::min(*tail - sq_head_, sq_entries_) : 0;
}

std::optional<io_uring_sqe> UringQueues::take() {
  const auto* array = reinterpret_cast<const std::uint32_t*>(rings_bytes_.data() + array_offset(cq_entries_));
  const auto index = arch::guarded_load(&array[sq_head_++ & (sq_entries_ - 1)]);
  // A copy: the guest may change the entry while we look at it.
  io_uring_sqe sqe;
  if (!index || *index >= sq_entries_ || !arch::guarded_copy(&sqe, entries_.data() + *index * sizeof sqe, sizeof sqe)) {
    store(rings_->sq_dropped, ++sq_dropped_);
    return std::nullopt;
  }
  return sqe;
}

void UringQueues::publish_head() { store(rings_->sq_head, sq_head_); }

// A head that the guest made up counts as a full queue, or an empty one.
unsigned UringQueues::completions() const {
  const auto head = arch::guarded_load(&rings_->cq_head);
  return head ? std::min(cq_tail_ - *head, cq_entries_) : cq_entries_;
}

bool UringQueues::put(const Completion& cqe) {
  if (completions() == cq_entries_ ||
      !arch::guarded_copy(&rings_->completions[cq_tail_ & (cq_entries_ - 1)], &cqe, sizeof cqe))
    return false;
  store(rings_->cq_tail, ++cq_tail_);
  return true;
}

void UringQueues::set_overflow(bool on) { store(rings_->sq_flags, on ? IORING_SQ_CQ_OVERFLOW : 0); }

bool UringQueues::eventfd_disabled() const {
  return arch::guarded_load(&rings_->cq_flags).value_or(0) & IORING_CQ_EVENTFD_DISABLED;
}

}  // namespace ramet::vmm
