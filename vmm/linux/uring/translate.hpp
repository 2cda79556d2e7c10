// From an entry of the guest to one of the host.
#pragma once

#include "vmm/linux/uring/uring.hpp"

namespace ramet::vmm {

// Operations that are served, for submission and for IORING_REGISTER_PROBE.
bool uring_serves(unsigned opcode);

// Which entries an operation that names others by their user_data may mean.
enum UringKind : std::uint8_t { kOther, kPoll, kTimeout, kLinkTimeout };
UringKind uring_kind(std::uint8_t opcode);

// Why an entry is refused. Linux checks an entry's form when it takes the entry (`at_once`: the batch ends, and a chain
// is cancelled before it starts), descriptors and the like when the entry's turn comes.
struct UringRefusal {
  int error;  // errno
  bool at_once = false;
};

// The ring's submit_lock_ is held as long as the object lives.
class UringTranslation {
 public:
  using Result = std::expected<void, UringRefusal>;
  UringTranslation(Uring& ring, Thread& thread, const io_uring_sqe& from, UringRequest& request)
      : ring_(ring), thread_(thread), from_(from), request_(request) {}
  // Sets all of `to` but user_data and the address of request.time, which the caller stores in addr (`timed_address`)
  // or addr2 (`timed_address2`).
  Result run(io_uring_sqe& to);
  // Makes `to` an entry that the host refuses when Linux would refuse the guest's.
  static void refused(const UringRefusal&, io_uring_sqe& to);
  bool timed_address = false, timed_address2 = false;

 private:
  Result transfer(io_uring_sqe& to, bool write);
  // Not analysed: the lock is held, see above, but clang cannot see that.
  Result transfer_fixed(io_uring_sqe& to, bool write) RAMET_NO_THREAD_SAFETY_ANALYSIS;
  Result take_file(int of_ring) RAMET_NO_THREAD_SAFETY_ANALYSIS;
  Result transfer_file(bool write);
  Result limit(bool write, std::uint64_t& bytes);
  Result charge(bool write, std::uint64_t bytes);
  Result pin(mm::Gva at, std::uint64_t length, mm::Access, std::uint64_t& total);
  void aim(io_uring_sqe& to, bool write);
  Result fsync(io_uring_sqe& to);
  Result poll_add(io_uring_sqe& to);
  Result timeout(mm::Gva at);
  Result remove(io_uring_sqe& to);
  Result cancel(io_uring_sqe& to);

  Uring& ring_;
  Thread& thread_;
  const io_uring_sqe& from_;
  UringRequest& request_;
};

}  // namespace ramet::vmm
