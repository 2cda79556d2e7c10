// Registered buffers of a ring.
#include "vmm/linux/uring/buffers.hpp"

#include <limits.h>

#include <algorithm>
#include <cerrno>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {
namespace {

constexpr std::uint64_t kMaxBuffers = 1u << 14;            // Linux's IORING_MAX_REG_BUFFERS
constexpr std::uint64_t kMaxBufferBytes = 1ull << 30;      // and its largest buffer

}  // namespace

OrErrno<std::shared_ptr<RegisteredBuffers>> RegisteredBuffers::pin(Thread& thread, mm::Gva iovecs,
                                                                   std::uint64_t count) {
  if (count == 0) return err(EINVAL);
  auto segments = read_user_array<GuestIovec>(thread.memory(), iovecs, count, kMaxBuffers);
  if (!segments) return err(segments.error());
  std::uint64_t bytes = 0;
  for (const GuestIovec& s : *segments) {
    if ((s.base && !s.length) || (!s.base && s.length) || s.length > kMaxBufferBytes) return err(EFAULT);
    bytes += s.length;
  }
  auto table = std::make_shared<RegisteredBuffers>(state_of(thread).devices, mm::Charge(thread.memory().account()));
  // The same memory may be registered several times, but within a limit: pinning cannot be interrupted.
  if (table->devices_->registered.fetch_add(bytes, std::memory_order_relaxed) + bytes >
      2 * thread.memory().limit_bytes()) {
    table->devices_->registered.fetch_sub(bytes, std::memory_order_relaxed);
    return err(ENOMEM);
  }
  table->bytes_ = bytes;
  if (!table->charge_.grow(count * sizeof(Buffer))) return err(ENOMEM);
  table->buffers_.reserve(count);
  std::size_t host_index = 0;
  for (const GuestIovec& s : *segments) {
    Buffer buffer{.range = {s.base, s.base + s.length}, .pin = {}, .first_host_index = host_index};
    if (s.length) {
      // The host's kernel may write into any of them.
      auto pin = thread.memory().pin(s.base, s.length, mm::Access::Write, mm::AddressSpace::PinTerm::Long);
      if (!pin) return err(pin.error() == mm::Error::NoMemory ? ENOMEM : EFAULT);
      buffer.pin = std::move(*pin);
      host_index += buffer.pin.ranges().size();
    }
    table->buffers_.push_back(std::move(buffer));
  }
  return table;
}

RegisteredBuffers::~RegisteredBuffers() { devices_->registered.fetch_sub(bytes_, std::memory_order_relaxed); }

bool RegisteredBuffers::register_with(io_uring& host) {
  std::size_t count = 0;
  for (const Buffer& b : buffers_) count += b.pin.ranges().size();
  if (count > kMaxBuffers) return false;
  std::vector<iovec> ranges;
  ranges.reserve(count);
  for (const Buffer& b : buffers_)
    for (const mm::HostRange& r : b.pin.ranges()) ranges.push_back({r.bytes.address(), r.bytes.size()});
  if (ranges.empty()) return true;
  registered_ = io_uring_register_buffers(&host, ranges.data(), static_cast<unsigned>(ranges.size())) == 0;
  return registered_;
}

OrErrno<RegisteredBuffers::Slice> RegisteredBuffers::slice(unsigned index, mm::Gva address,
                                                           std::uint64_t length) const {
  if (index >= buffers_.size()) return err(EFAULT);
  const Buffer& buffer = buffers_[index];
  if (address < buffer.range.start || address > buffer.range.end || length > buffer.range.end - address)
    return err(EFAULT);
  Slice slice;
  std::uint64_t skip = address - buffer.range.start;
  std::size_t host_index = buffer.first_host_index;
  for (const mm::HostRange& r : buffer.pin.ranges()) {
    if (length == 0 || slice.pieces.size() == IOV_MAX) break;
    if (skip < r.bytes.size()) {
      const std::uint64_t n = std::min<std::uint64_t>(length, r.bytes.size() - skip);
      if (registered_ && slice.pieces.empty()) slice.host_index = static_cast<std::uint16_t>(host_index);
      slice.pieces.push_back({r.bytes.address(skip), n});
      length -= n;
      skip = 0;
    } else {
      skip -= r.bytes.size();
    }
    ++host_index;
  }
  if (slice.pieces.size() != 1) slice.host_index.reset();
  return slice;
}

}  // namespace ramet::vmm
