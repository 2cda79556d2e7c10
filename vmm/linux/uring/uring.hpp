// io_uring for guests: the guest's queues are ours, and behind them stands one ring of the host. Each entry of the
// guest becomes exactly one of the host's, on the host addresses of pinned guest memory, so that links, drains and the
// counts of timeouts mean what they mean to the host; an entry that is refused here becomes one that the host refuses.
//
//   guest:  fill entries ─> enter ─┐                               ┌─> completion in the guest's memory
//   host thread of the guest:      take, check, pin ─> host ring   │
//                                        host ring ─> unpin ───────┤
//   thread of the ring:                  (waits)   ─> unpin ───────┘
//
// A thread in io_uring_enter moves completions itself, so those that are there at once cost no second thread. The
// ring's own thread moves the rest: a guest may look for completions in its memory without a system call.
#pragma once

#include <liburing.h>

#include <condition_variable>
#include <list>
#include <map>
#include <thread>
#include <unordered_map>

#include "guest-mm/pin.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "vmm/linux/files/files.hpp"
#include "vmm/linux/files/pin_holders.hpp"
#include "vmm/linux/memory/host_mapping.hpp"
#include "vmm/linux/uring/buffers.hpp"
#include "vmm/linux/uring/queues.hpp"

namespace ramet::vmm {

class Thread;

// One entry of the guest on its way through the host.
struct UringRequest {
  std::uint64_t user_data = 0;
  std::uint8_t opcode = IORING_OP_NOP;
  int refused = 0;                              // errno that the guest gets instead of the host's
  bool transfers = false;                       // the result is a number of bytes
  mm::Charge charge;                            // of all that is allocated for it
  std::shared_ptr<OpenFile> file;               // keeps the host's descriptor open
  std::vector<mm::Pin> pins;
  std::shared_ptr<const RegisteredBuffers> buffers;
  std::vector<iovec> iov;
  __kernel_timespec time{};
  std::list<Completion> completion{1};          // its place in the ring's backlog, should the guest's queue be full
  std::uint64_t appended = 0;                   // bytes counted in file->charge->in_flight
  std::multimap<std::pair<std::uint64_t, std::uint8_t>, std::uint64_t>::iterator tag{};
  explicit UringRequest(mm::Charge charged) : charge(std::move(charged)) {}
  UringRequest(const UringRequest&) = delete;
  ~UringRequest();
};

class Uring : public PinHolder {
 public:
  // Flags and sizes are checked as Linux checks them; fills the rest of `params`. Errors: EINVAL, ENOMEM, ENOSYS, ...
  static OrErrno<std::shared_ptr<Uring>> create(Thread&, unsigned entries, io_uring_params& params);
  ~Uring() override;

  // A host descriptor for the guest's ring descriptor: for poll and epoll; it cannot be read or written. Invalid:
  // errno.
  HostFd pollable();
  const UringQueues& queues() const { return *queues_; }

  struct Wait {
    unsigned completions = 0;  // at least so many, at most the queue's size
    std::optional<timespec> deadline;  // CLOCK_MONOTONIC
  };
  // Takes up to `count` entries off the guest's queue. Returns how many, or -errno.
  std::int64_t submit(Thread&, unsigned count) RAMET_EXCLUDES(submit_lock_, lock_);
  // 0 or -errno: ETIME, EINTR, ENXIO (the ring has let go).
  std::int64_t wait(Thread&, const Wait&) RAMET_EXCLUDES(lock_);
  // io_uring_register(2).
  std::int64_t register_call(Thread&, unsigned opcode, mm::Gva argument, unsigned count)
      RAMET_EXCLUDES(submit_lock_, lock_);

  // The guest is going to poll the descriptor. It takes completions by writing its own memory, which the VMM does not
  // see: so Devices::refresh() sets the descriptor's readiness before each wait.
  void watch() override RAMET_EXCLUDES(lock_);
  OrErrno<std::shared_ptr<OpenFile>> mapped(std::uint64_t& offset, std::uint64_t length) override;
  void refresh() override RAMET_EXCLUDES(lock_);

  // Cancels what is in flight, waits for it, and gives back all pins. From then on enter says ENXIO.
  void let_go() override RAMET_EXCLUDES(submit_lock_, lock_);
  // Whether the entries' addresses mean this memory. A process that inherited the descriptor can only poll and close
  // it.
  bool belongs_to(const mm::AddressSpace& memory) const { return &memory == &memory_; }

  bool single_issuer() const { return flags_ & IORING_SETUP_SINGLE_ISSUER; }
  int issuer() const { return issuer_; }

 private:
  friend class UringTranslation;
  Uring(Thread&, const io_uring_params&, std::unique_ptr<UringQueues>);
  OrErrno<void> start();
  void serve() RAMET_EXCLUDES(lock_);  // the ring's thread

  std::unique_ptr<UringRequest> new_request();  // null: the guest's limit is reached
  bool submit_one(Thread&, const io_uring_sqe&, std::unique_ptr<UringRequest>) RAMET_REQUIRES(submit_lock_)
      RAMET_EXCLUDES(lock_);
  void flush_to_host(Thread*) RAMET_REQUIRES(submit_lock_) RAMET_EXCLUDES(lock_);
  // Moves completions from the host's queue into the guest's. Returns how many.
  unsigned move() RAMET_EXCLUDES(lock_);
  bool full() const { return devices_->requests.load(std::memory_order_relaxed) >= Devices::kMaxRequests; }
  using Done = std::array<std::unique_ptr<UringRequest>, 64>;
  unsigned move_some_locked(Done&) RAMET_REQUIRES(lock_);
  void post_locked(std::list<Completion>& one) RAMET_REQUIRES(lock_);
  void flush_backlog_locked() RAMET_REQUIRES(lock_);
  // `later`: some of the completions are not of the batch that is being submitted.
  void announce_locked(bool later) RAMET_REQUIRES(lock_);
  // The host's user_data of an entry in flight, by the guest's.
  std::optional<std::uint64_t> find(std::uint64_t user_data, std::uint8_t kind) RAMET_EXCLUDES(lock_);
  std::shared_ptr<OpenFile> file_of(Thread&, const io_uring_sqe&) RAMET_REQUIRES(submit_lock_);

  std::int64_t register_buffers(Thread&, mm::Gva, unsigned) RAMET_REQUIRES(submit_lock_);
  std::int64_t unregister_buffers(Thread&) RAMET_REQUIRES(submit_lock_);
  std::int64_t register_files(Thread&, mm::Gva, unsigned) RAMET_REQUIRES(submit_lock_);
  std::int64_t update_files(Thread&, mm::Gva, unsigned) RAMET_REQUIRES(submit_lock_);
  std::int64_t register_eventfd(Thread&, mm::Gva, unsigned, bool async_only) RAMET_REQUIRES(submit_lock_)
      RAMET_EXCLUDES(lock_);
  std::int64_t probe(Thread&, mm::Gva, unsigned);

  mm::AddressSpace& memory_;
  const std::shared_ptr<Devices> devices_;
  const unsigned flags_;
  const int issuer_;  // the thread that made it
  const std::unique_ptr<UringQueues> queues_;
  std::unique_ptr<MemoryCharge> charge_;  // the queues' bytes, as a memory file's
  MappingPlaces places_;  // of the queues, the host's, and the thread's stack

  // Lock order: submit_lock_ > lock_ > the address space's.
  Mutex submit_lock_;  // guards the submission queues of host_ and queues_ as well
  io_uring host_{};  // submission queue guarded by submit_lock_, completion queue by lock_
  bool host_open_ = false;  // changed under both locks
  std::shared_ptr<RegisteredBuffers> buffers_ RAMET_GUARDED_BY(submit_lock_);
  mm::Charge files_charge_ RAMET_GUARDED_BY(submit_lock_);
  std::vector<std::shared_ptr<OpenFile>> files_ RAMET_GUARDED_BY(submit_lock_);
  bool files_registered_ RAMET_GUARDED_BY(submit_lock_) = false;

  Mutex lock_;  // guards the completion queues of host_ and queues_ as well
  std::uint64_t next_id_ RAMET_GUARDED_BY(lock_) = 1;  // the host's user_data
  // Timeouts that ran out: each ends all waits, however few completions there are.
  std::uint64_t timeouts_ RAMET_GUARDED_BY(lock_) = 0;
  std::uint64_t batch_ RAMET_GUARDED_BY(lock_) = ~0ull;  // first id of the batch that is being submitted; ~0: none
  std::unordered_map<std::uint64_t, std::unique_ptr<UringRequest>> requests_ RAMET_GUARDED_BY(lock_);
  // Ids by the guest's user_data and the UringKind.
  std::multimap<std::pair<std::uint64_t, std::uint8_t>, std::uint64_t> tags_ RAMET_GUARDED_BY(lock_);
  // Completions that found the guest's queue full. Each still counts in Devices::requests.
  std::list<Completion> backlog_ RAMET_GUARDED_BY(lock_);
  std::shared_ptr<OpenFile> eventfd_ RAMET_GUARDED_BY(lock_);
  bool eventfd_async_only_ RAMET_GUARDED_BY(lock_) = false;
  io_uring bell_ RAMET_GUARDED_BY(lock_){};  // signals eventfd_, see register_eventfd()
  bool bell_open_ RAMET_GUARDED_BY(lock_) = false;
  HostFd stop_;  // eventfd: the ring's thread is to end
  HostFd ready_;  // eventfd, readable while the guest has completions; see watch()
  bool watched_ RAMET_GUARDED_BY(lock_) = false;
  bool gone_ RAMET_GUARDED_BY(lock_) = false, stopping_ RAMET_GUARDED_BY(lock_) = false;
  std::condition_variable changed_;  // requests_ became empty or not, stopping_

  std::atomic<std::uint32_t> posted_{0};  // futex word: completions were posted; pairs with wait()
  std::atomic<unsigned> waiting_{0};  // threads in wait(); pairs with announce_locked()'s load
  std::thread thread_;
};

// Precondition: kind Uring.
Uring& ring_of(const OpenFile&);

}  // namespace ramet::vmm
