// Registered buffers of a ring: guest memory pinned for as long as it is registered, and registered with the host's
// ring as well, so that the host kernel moves data into frames whose addresses it looked up once.
#pragma once

#include <liburing.h>
#include <sys/uio.h>

#include <optional>
#include <span>
#include <vector>

#include "guest-mm/pin.hpp"
#include "vmm/linux/files/pin_holders.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {

class Thread;

// Immutable after register_with(). Requests in flight keep it alive, and with it the pins.
class RegisteredBuffers {
 public:
  RegisteredBuffers(std::shared_ptr<Devices> devices, mm::Charge charge)
      : devices_(std::move(devices)), charge_(std::move(charge)) {}
  ~RegisteredBuffers();
  RegisteredBuffers(const RegisteredBuffers&) = delete;
  RegisteredBuffers& operator=(const RegisteredBuffers&) = delete;
  // Pins what the guest's array of `count` struct iovec names. Errors as Linux: EINVAL, EFAULT, ENOMEM.
  static OrErrno<std::shared_ptr<RegisteredBuffers>> pin(Thread&, mm::Gva iovecs, std::uint64_t count);
  // Registers all with the host. False: the host would not (its RLIMIT_MEMLOCK, memory of some file systems);
  // then I/O goes by addresses.
  bool register_with(io_uring& host);
  bool registered() const { return registered_; }

  // The host's addresses of [address, address+length) in buffer `index`, IOV_MAX pieces at most. `host_index`: the
  // registered buffer of the host that holds all of it; none: I/O goes by the pieces' addresses. Errors: EFAULT.
  struct Slice {
    std::vector<iovec> pieces;
    std::optional<std::uint16_t> host_index;
  };
  OrErrno<Slice> slice(unsigned index, mm::Gva address, std::uint64_t length) const;

 private:
  struct Buffer {
    mm::Range range;  // of guest addresses; empty: a place without a buffer
    mm::Pin pin;
    std::size_t first_host_index = 0;  // of pin.ranges()[0] among the host's registered buffers; the others follow
  };
  const std::shared_ptr<Devices> devices_;
  std::uint64_t bytes_ = 0;  // counted in devices_->registered
  mm::Charge charge_;  // of buffers_
  std::vector<Buffer> buffers_;
  bool registered_ = false;
};

}  // namespace ramet::vmm
