// A guest's ring: submission, completion, and its end.
#include "vmm/linux/uring/uring.hpp"

#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <system_error>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/uring/translate.hpp"
#include "vmm/signals_blocked.hpp"

namespace ramet::vmm {
namespace {

constexpr unsigned kMaxEntries = 32768, kMaxCompletions = 2 * kMaxEntries;  // Linux's
constexpr unsigned kServedSetup = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL |
                                  IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SINGLE_ISSUER |
                                  IORING_SETUP_DEFER_TASKRUN;
constexpr unsigned kFeatures = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE |
                               IORING_FEAT_RW_CUR_POS | IORING_FEAT_FAST_POLL | IORING_FEAT_POLL_32BITS |
                               IORING_FEAT_EXT_ARG | IORING_FEAT_NATIVE_WORKERS;
constexpr unsigned kMaxWorkers = 256;  // host threads for a guest thread's entries that can only wait
// What one entry costs: in the VMM the request and its places in two tables, in the host's kernel struct io_kiocb.
constexpr std::uint64_t kRequestBytes = 1024;
constexpr std::uint64_t kRingMappings = 8;  // two of its own, two or three of the host's ring, a stack with its guard
constexpr std::uint64_t kRingBytes = 64 * 1024;  // the ring's thread, and all else but its queues
constexpr int kMaxAttempts = 1000;  // a millisecond apart, to cancel what is in flight

// The size of a queue: `wanted` rounded up to a power of two. `clamp`: to `most` at most. Errors: EINVAL.
OrErrno<unsigned> entries_of(unsigned wanted, unsigned most, bool clamp) {
  if (wanted == 0) return err(EINVAL);
  if (wanted > most) {
    if (!clamp) return err(EINVAL);
    wanted = most;
  }
  return std::bit_ceil(wanted);
}

// Not by an IORING_OP_ASYNC_CANCEL entry, which would itself wait behind a drain. -ENOENT: nothing is in flight; other
// errors cannot be helped.
int cancel_all(io_uring& host) {
  io_uring_sync_cancel_reg all{};
  all.flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL;
  all.timeout = {0, 0};
  return io_uring_register_sync_cancel(&host, &all);
}

}  // namespace

Uring& ring_of(const OpenFile& file) { return static_cast<Uring&>(*file.operations); }

OrErrno<std::shared_ptr<OpenFile>> Uring::mapped(std::uint64_t& offset, std::uint64_t length) {
  const auto place = queues_->place(offset, length);
  if (!place) return err(place.error());
  offset = *place;
  return queues_->memory();
}

// --- making one ---

Uring::Uring(Thread& thread, const io_uring_params& params, std::unique_ptr<UringQueues> queues)
    : memory_(thread.memory()), devices_(state_of(thread).devices), flags_(params.flags), issuer_(thread.tid),
      queues_(std::move(queues)), places_(state_of(thread).mappings, kRingMappings) {}

OrErrno<std::shared_ptr<Uring>> Uring::create(Thread& thread, unsigned entries, io_uring_params& params) {
  if (params.flags & ~kServedSetup) return err(EINVAL);
  const bool cooperative = params.flags & (IORING_SETUP_COOP_TASKRUN | IORING_SETUP_DEFER_TASKRUN);
  if ((params.flags & IORING_SETUP_TASKRUN_FLAG) && !cooperative) return err(EINVAL);
  if ((params.flags & IORING_SETUP_DEFER_TASKRUN) && !(params.flags & IORING_SETUP_SINGLE_ISSUER)) return err(EINVAL);
  const bool clamp = params.flags & IORING_SETUP_CLAMP;
  auto sq = entries_of(entries, kMaxEntries, clamp);
  if (!sq) return err(sq.error());
  auto cq = params.flags & IORING_SETUP_CQSIZE ? entries_of(params.cq_entries, kMaxCompletions, clamp) : 2 * *sq;
  if (!cq) return err(cq.error());
  if (*cq < *sq) return err(EINVAL);

  auto& state = state_of(thread);
  auto charge = std::make_unique<MemoryCharge>(state.account);
  // The guest's queues, and the host's, which are as large.
  if (!charge->grow(2 * UringQueues::bytes(*sq, *cq) + kRingBytes)) return err(ENOMEM);
  auto queues = UringQueues::create(*sq, *cq);
  if (!queues) return err(queues.error());
  if (state.devices->rings.fetch_add(1) >= Devices::kMaxRings) {
    state.devices->rings.fetch_sub(1);
    return err(ENOMEM);
  }
  std::shared_ptr<Uring> ring(new Uring(thread, params, std::move(*queues)));
  ring->charge_ = std::move(charge);
  if (!ring->places_) return err(ENOMEM);
  if (auto started = ring->start(); !started) return err(started.error());
  state.devices->add(ring);
  params.sq_entries = *sq;
  params.cq_entries = *cq;
  params.features = kFeatures & ring->host_.features;
  ring->queues_->describe(params.sq_off, params.cq_off);
  return ring;
}

OrErrno<void> Uring::start() {
  io_uring_params params{};
  params.flags = IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL;  // a refused entry does not end the host's batch: we do
  params.cq_entries = queues_->cq_entries();
  // Completions that the host finishes on the submitting thread bring it out of guest mode for that, unless the guest
  // says that it will call soon enough.
  if (flags_ & (IORING_SETUP_COOP_TASKRUN | IORING_SETUP_DEFER_TASKRUN)) params.flags |= IORING_SETUP_COOP_TASKRUN;
  if (int r = io_uring_queue_init_params(queues_->sq_entries(), &host_, &params); r < 0) return err(-r);
  host_open_ = true;
  if (cancel_all(host_) == -EINVAL) return err(ENOSYS);  // before Linux 6.0: it could not be ended
  io_uring_ring_dontfork(&host_);
  // Limits entries that each wait in a thread of the host's kernel: IOSQE_ASYNC reads of an empty pipe, say.
  std::array<unsigned, 2> workers{0, kMaxWorkers};  // 0: keeps the host's limit for bounded work (regular files)
  if (int r = io_uring_register_iowq_max_workers(&host_, workers.data()); r < 0) return err(-r);
  ready_ = HostFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  stop_ = HostFd(::eventfd(0, EFD_CLOEXEC));
  if (!ready_ || !stop_) return err(errno);
  SignalsBlocked blocked;
  try {
    thread_ = std::thread([this] { serve(); });
  } catch (const std::exception&) {
    return err(ENOMEM);
  }
  return {};
}

// An epoll descriptor is readable when something in it is, and neither read(2) nor write(2) do anything to it.
HostFd Uring::pollable() {
  HostFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{.events = EPOLLIN, .data = {}};
  if (epoll && ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, ready_.get(), &event) != 0) return HostFd();
  return epoll;
}

// --- its end ---

Uring::~Uring() {
  let_go();
  if (bell_open_) io_uring_queue_exit(&bell_);
  devices_->requests.fetch_sub(static_cast<unsigned>(backlog_.size()), std::memory_order_relaxed);
  devices_->rings.fetch_sub(1);
}

void Uring::let_go() {
  LockGuard submitting(submit_lock_);
  {
    LockGuard guard(lock_);
    if (std::exchange(gone_, true)) return;
  }
  if (thread_.joinable()) {
    flush_to_host(nullptr);
    // Repeated: an entry behind a link or a drain can be cancelled only when the entry before it has gone. Some kernels
    // never complete entries behind a drain; those have not begun, and closing the ring ends them.
    for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
      move();
      UniqueLock guard(lock_);
      if (requests_.empty()) break;
      guard.unlock();
      cancel_all(host_);
      guard.lock();
      changed_.wait_for(guard.standard(), std::chrono::milliseconds(1),
                        [&]() RAMET_REQUIRES(lock_) { return requests_.empty(); });
    }
    {
      LockGuard guard(lock_);
      stopping_ = true;
    }
    changed_.notify_all();
    ::eventfd_write(stop_.get(), 1);  // ends the thread's wait for the host
    thread_.join();
  }
  buffers_.reset();
  files_.clear();
  LockGuard guard(lock_);
  if (std::exchange(host_open_, false)) io_uring_queue_exit(&host_);
  eventfd_.reset();
  devices_->requests.fetch_sub(static_cast<unsigned>(requests_.size()), std::memory_order_relaxed);
  requests_.clear();
  announce_locked(true);  // threads in wait() find gone_ set
}

// --- submission ---

std::shared_ptr<OpenFile> Uring::file_of(Thread& thread, const io_uring_sqe& sqe) {
  if (!(sqe.flags & IOSQE_FIXED_FILE)) return thread.process.files.get(sqe.fd);
  const auto index = static_cast<std::uint32_t>(sqe.fd);
  return index < files_.size() ? files_[index] : nullptr;
}

std::optional<std::uint64_t> Uring::find(std::uint64_t user_data, std::uint8_t kind) {
  LockGuard guard(lock_);
  auto it = tags_.find({user_data, kind});
  if (it == tags_.end()) return std::nullopt;
  return it->second;
}

std::unique_ptr<UringRequest> Uring::new_request() {
  mm::Charge charge(memory_.account());
  if (!charge.grow(kRequestBytes)) return nullptr;
  return std::make_unique<UringRequest>(std::move(charge));
}

// False: the batch ends with this one.
bool Uring::submit_one(Thread& thread, const io_uring_sqe& from, std::unique_ptr<UringRequest> request) {
  request->user_data = from.user_data;
  io_uring_sqe entry{};
  UringTranslation translation(*this, thread, from, *request);
  const UringTranslation::Result translated = translation.run(entry);
  if (!translated) {
    request->refused = translated.error().error;
    UringTranslation::refused(translated.error(), entry);
    devices_->counters().refused.fetch_add(1, std::memory_order_relaxed);
  } else {
    const auto time = reinterpret_cast<std::uint64_t>(&request->time);
    if (translation.timed_address) entry.addr = time;
    if (translation.timed_address2) entry.addr2 = time;
  }
  {
    LockGuard guard(lock_);
    entry.user_data = next_id_++;
    request->tag = tags_.insert({{from.user_data, uring_kind(from.opcode)}, entry.user_data});
    if (requests_.empty()) changed_.notify_all();  // the ring's thread has something to wait for
    requests_.emplace(entry.user_data, std::move(request));
  }
  devices_->requests.fetch_add(1, std::memory_order_relaxed);
  devices_->counters().submitted.fetch_add(1, std::memory_order_relaxed);
  *io_uring_get_sqe(&host_) = entry;  // not null: this queue is as large as the guest's, and empty before each batch
  return translated || !translated.error().at_once || (flags_ & IORING_SETUP_SUBMIT_ALL);
}

// Until the host has taken all. It refuses only for want of memory, or of room for completions, which move() makes.
void Uring::flush_to_host(Thread* thread) {
  while (io_uring_sq_ready(&host_) > 0) {
    const int r = io_uring_submit(&host_);
    if (r >= 0 || r == -EINTR) continue;
    move();
    // Entries left over are submitted with the next batch or by let_go().
    if (thread && thread->should_stop_waiting()) return;
    sched_yield();
  }
}

std::int64_t Uring::submit(Thread& thread, unsigned count) {
  LockGuard submitting(submit_lock_);
  {
    LockGuard guard(lock_);
    if (gone_) return -ENXIO;
    if (!backlog_.empty() && full()) return -EBUSY;  // until the guest takes completions
  }
  flush_to_host(&thread);
  if (io_uring_sq_ready(&host_) > 0) return -EAGAIN;
  {
    LockGuard guard(lock_);
    batch_ = next_id_;
  }
  count = std::min(count, queues_->submissions());
  unsigned submitted = 0;
  while (submitted < count) {
    if (full()) break;
    auto request = new_request();
    if (!request) break;
    auto sqe = queues_->take();
    if (!sqe) break;
    ++submitted;
    if (!submit_one(thread, *sqe, std::move(request))) break;
  }
  queues_->publish_head();
  flush_to_host(&thread);
  move();
  {
    LockGuard guard(lock_);
    batch_ = ~0ull;
  }
  // A write to a pipe that nobody reads, done at once: on Linux too the caller gets the signal.
  if (broken_pipe_pending()) broken_pipe(thread, -EPIPE);
  return submitted > 0 || count == 0 ? static_cast<std::int64_t>(submitted) : -EAGAIN;
}

// --- completion ---

// Allocates nothing: it must not fail, as completions taken from the host cannot be given back.
unsigned Uring::move() {
  for (unsigned all = 0;;) {
    Done done;  // destroyed outside of the lock: that may close files
    unsigned moved;
    {
      LockGuard guard(lock_);
      moved = move_some_locked(done);
    }
    all += moved;
    if (moved < done.size()) return all;
  }
}

unsigned Uring::move_some_locked(Done& done) {
  if (!host_open_) return 0;
  unsigned moved = 0, later = 0;
  std::array<io_uring_cqe*, std::tuple_size_v<Done>> cqes;
  const unsigned n = io_uring_peek_batch_cqe(&host_, cqes.data(), cqes.size());
  for (const io_uring_cqe* cqe : std::span(cqes).first(n)) {
    auto it = requests_.find(cqe->user_data);
    UringRequest& request = *it->second;
    std::int32_t result = cqe->res;
    if (request.refused && result != -ECANCELED) result = -request.refused;
    timeouts_ += request.opcode == IORING_OP_TIMEOUT && (result == -ETIME || result == 0);
    if (request.transfers && result > 0)
      devices_->counters().bytes.fetch_add(static_cast<std::uint64_t>(result), std::memory_order_relaxed);
    // Unpinned before the guest can see the completion.
    request.pins.clear();
    request.buffers.reset();
    request.completion.front() = {request.user_data, result, 0};
    post_locked(request.completion);
    tags_.erase(request.tag);
    done[moved++] = std::move(it->second);
    requests_.erase(it);
    later += cqe->user_data < batch_;
  }
  io_uring_cq_advance(&host_, n);
  if (moved == 0) return 0;
  devices_->counters().completed.fetch_add(moved, std::memory_order_relaxed);
  devices_->counters().async.fetch_add(later, std::memory_order_relaxed);
  if (requests_.empty()) changed_.notify_all();
  announce_locked(later > 0);
  return moved;
}

void Uring::post_locked(std::list<Completion>& one) {
  flush_backlog_locked();
  if (backlog_.empty() && queues_->put(one.front())) {
    devices_->requests.fetch_sub(1, std::memory_order_relaxed);
    return;
  }
  devices_->counters().overflows.fetch_add(1, std::memory_order_relaxed);
  backlog_.splice(backlog_.end(), one);
  queues_->set_overflow(true);
}

void Uring::flush_backlog_locked() {
  if (backlog_.empty()) return;
  for (; !backlog_.empty() && queues_->put(backlog_.front()); backlog_.pop_front())
    devices_->requests.fetch_sub(1, std::memory_order_relaxed);
  if (backlog_.empty()) queues_->set_overflow(false);
}

// Tells waiting threads, polls and the eventfd that completions were posted or the ring has let go.
void Uring::announce_locked(bool later) {
  posted_.fetch_add(1, std::memory_order_seq_cst);
  if (waiting_.load(std::memory_order_seq_cst))
    syscall(SYS_futex, &posted_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  if (watched_) ::eventfd_write(ready_.get(), 1);  // non-blocking; if it is full, it is readable
  if (!eventfd_ || queues_->eventfd_disabled() || (eventfd_async_only_ && !later)) return;
  // Null: the host had no memory for the last entries, which are submitted again.
  if (io_uring_sqe* sqe = io_uring_get_sqe(&bell_)) io_uring_prep_nop(sqe);
  io_uring_submit(&bell_);
  std::array<io_uring_cqe*, 4> cqes;
  io_uring_cq_advance(&bell_, io_uring_peek_batch_cqe(&bell_, cqes.data(), cqes.size()));
}

std::int64_t Uring::wait(Thread& thread, const Wait& how) {
  const unsigned wanted = std::min(how.completions, queues_->cq_entries());
  std::int64_t result = 0;
  std::optional<std::uint64_t> timeouts;
  waiting_.fetch_add(1, std::memory_order_seq_cst);
  for (;;) {
    const std::uint32_t seen = posted_.load(std::memory_order_seq_cst);
    move();
    unsigned there;
    bool enough;
    {
      LockGuard guard(lock_);
      flush_backlog_locked();
      there = queues_->completions();
      if (!timeouts) timeouts = timeouts_;
      enough = there >= wanted || *timeouts != timeouts_;
      if (!enough && gone_) result = -ENXIO;
    }
    if (enough || result < 0) {
      if (there > 0 || wanted == 0) result = 0;  // as in Linux, completions count more than the error
      break;
    }
    const timespec* deadline = how.deadline ? &*how.deadline : nullptr;
    const std::int64_t r = thread.blocking(SYS_futex, reinterpret_cast<std::uint64_t>(&posted_),
                                           FUTEX_WAIT_BITSET_PRIVATE, seen, reinterpret_cast<std::uint64_t>(deadline),
                                           0, FUTEX_BITSET_MATCH_ANY);
    if (r == -ETIMEDOUT) result = -ETIME;
    if (r == -EINTR && thread.should_stop_waiting()) result = -EINTR;
  }
  waiting_.fetch_sub(1, std::memory_order_seq_cst);
  return result;
}

void Uring::serve() {
  UniqueLock guard(lock_);
  while (!stopping_) {
    if (requests_.empty()) {
      changed_.wait(guard.standard());
      continue;
    }
    guard.unlock();
    std::array<pollfd, 2> fds{{{host_.ring_fd, POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
    ::poll(fds.data(), fds.size(), -1);
    move();
    guard.lock();
  }
}

// --- polling the descriptor ---

void Uring::watch() {
  {
    LockGuard guard(lock_);
    watched_ = true;
  }
  devices_->watched.store(true, std::memory_order_relaxed);
  refresh();
}

void Uring::refresh() {
  LockGuard guard(lock_);
  if (!watched_) return;
  flush_backlog_locked();
  eventfd_t count;
  if (queues_->completions()) ::eventfd_write(ready_.get(), 1);
  else ::eventfd_read(ready_.get(), &count);  // non-blocking: it may be empty already
}

}  // namespace ramet::vmm
