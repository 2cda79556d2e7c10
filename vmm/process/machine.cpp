#include "vmm/process/machine.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <new>

#include "arch/exec_sync.hpp"
#include "vmm/host_features.hpp"
#include "vmm/kick_signal.hpp"
#include "vmm/process/vcpu.hpp"

namespace ramet::vmm::process {
namespace {

// Host mappings that are kept free, for the stub's and for those that are cut in two by a change in their middle.
constexpr std::size_t kReserve = 512;

std::size_t most_of_host() {
  static const std::size_t most = [] {
    std::size_t n = 65530;
    std::ifstream("/proc/sys/vm/max_map_count") >> n;
    return n;
  }();
  return most;
}

}  // namespace

std::expected<std::unique_ptr<ProcessMachine>, Failure> ProcessMachine::create(bool hardened,
                                                                               std::size_t most_mappings) {
  install_kick_signal();
  auto child = Child::create(hardened);
  if (!child) return std::unexpected(child.error());
  const std::size_t most = most_mappings ? most_mappings : most_of_host();
  return std::unique_ptr<ProcessMachine>(
      new ProcessMachine(std::move(*child), hardened, most > 2 * kReserve ? most - kReserve : most / 2));
}

ProcessMachine::ProcessMachine(std::unique_ptr<Child> child, bool hardened, std::size_t capacity)
    : child_(std::move(child)), vdso_(child_->vdso()), hardened_(hardened), capacity_(capacity) {}
ProcessMachine::~ProcessMachine() = default;

Status ProcessMachine::attach(mm::AddressSpace& space) {
  space_ = &space;
  mirror_ = std::make_unique<Mirror>(*child_, space, space.physical(), capacity_);
  return {};
}

void ProcessMachine::flush(const mm::FlushRequest& request) {
  SharedLock hold(here_);
  if (!mirror_) return;
  try {
    mirror_->flush(request.ranges, request.everything);
  } catch (const std::bad_alloc&) {
    child_->kill();  // what it has mapped goes with it
  }
}

void ProcessMachine::flush_relaxed(const mm::FlushRequest& request) {
  SharedLock hold(here_);
  if (!mirror_ || request.everything) return;
  try {
    mirror_->gained(request.ranges);
  } catch (const std::bad_alloc&) {
    child_->kill();
  }
}

void ProcessMachine::exec_sync(mm::Gpa first, std::uint64_t bytes) {
  if (space_) space_->physical().exec_sync(first, bytes);
}

bool ProcessMachine::needs_exec_sync() const { return arch::exec_sync_needed(); }

void ProcessMachine::files_closed() {
  SharedLock hold(here_);
  if (mirror_) mirror_->close_writable();
}

Status ProcessMachine::warm_up() {
  if (auto made = make_vcpu(); !made) return made;
  if (auto mapped = mirror_->map_expected(); !mapped)
    return failure(
        fmt::format("the host's process cannot be given the guest's memory: {}", std::strerror(mapped.error())));
  return {};
}

std::vector<mm::Gva> ProcessMachine::touched() const {
  SharedLock hold(here_);
  return mirror_->touched();
}

void ProcessMachine::expect(std::span<const mm::Gva> addresses) {
  SharedLock hold(here_);
  mirror_->expect(addresses);
}

Status ProcessMachine::renew() {
  auto fresh = Child::create(hardened_);
  if (!fresh) return std::unexpected(fresh.error());
  const auto touched = this->touched();
  Totals past = totals();
  past.mappings = 0;
  {
    LockGuard hold(vcpus_lock_);
    free_.clear();
    nice_.clear();
    vcpus_.clear();
  }
  LockGuard replacing(here_);
  past_ = past;
  child_ = std::move(*fresh);  // the other one has ended
  if (auto attached = attach(*space_); !attached) return attached;
  mirror_->expect(touched);
  return {};
}

Status ProcessMachine::move_on() {
  LockGuard one_at_a_time(moving_lock_);
  LockGuard no_more_vcpus(creating_lock_);
  auto fresh = Child::create(hardened_);
  if (!fresh) return std::unexpected(fresh.error());
  std::vector<Child::Thread> threads;
  std::vector<ProcessVcpu*> vcpus;  // none is added meanwhile
  {
    LockGuard guard(vcpus_lock_);
    for (const auto& vcpu : vcpus_) vcpus.push_back(vcpu.get());
  }
  for (unsigned number = 1; number <= vcpus.size(); ++number) {
    auto thread = (*fresh)->make_thread(number);
    if (!thread)
      return failure(
          fmt::format("the host gives the guest's new process no thread: {}", std::strerror(thread.error())));
    threads.push_back(std::move(*thread));
  }
  auto mirror = std::make_unique<Mirror>(**fresh, *space_, space_->physical(), capacity_);
  mirror->expect(touched());
  moving_.store(true, std::memory_order_seq_cst);
  std::vector<std::unique_lock<Mutex>> outside;
  for (ProcessVcpu* vcpu : vcpus) outside.push_back(vcpu->come_out());
  {
    LockGuard replacing(here_);
    const Mirror::Counts counts = mirror_->counts();
    past_.fills += counts.fills, past_.refills += counts.refills, past_.evictions += counts.evictions;
    for (std::size_t i = 0; i < vcpus.size(); ++i)
      vcpus[i]->move_to(**fresh, *mirror, static_cast<unsigned>(i) + 1, std::move(threads[i]));
    mirror_ = std::move(mirror);
    child_ = std::move(*fresh);  // the other one has ended
  }
  moving_.store(false, std::memory_order_seq_cst);
  return {};
}

const Machine::Features& ProcessMachine::features() const { return host_features(); }

std::expected<ProcessVcpu*, Failure> ProcessMachine::create_vcpu() {
  LockGuard one_at_a_time(creating_lock_);
  const auto number = [&] {
    LockGuard guard(vcpus_lock_);
    return static_cast<unsigned>(vcpus_.size()) + 1;
  }();
  if (number > Child::kMostThreads)
    return failure(fmt::format("a guest's process has at most {} threads", Child::kMostThreads));
  auto thread = child_->make_thread(number);
  if (!thread)
    return failure(fmt::format("the host gives the guest's process no further thread: {}",
                               std::strerror(thread.error())),
                   125, thread.error() == EAGAIN ? EAGAIN : 0);
  auto vcpu = std::make_unique<ProcessVcpu>(*this, number, std::move(*thread));
  LockGuard hold(vcpus_lock_);
  return vcpus_.emplace_back(std::move(vcpu)).get();
}

Status ProcessMachine::make_vcpu() {
  auto vcpu = create_vcpu();
  if (!vcpu) return std::unexpected(vcpu.error());
  LockGuard hold(vcpus_lock_);
  free_.push_back(*vcpu);
  return {};
}

std::expected<Vcpu*, Failure> ProcessMachine::acquire_vcpu() {
  ProcessVcpu* vcpu = nullptr;
  {
    LockGuard hold(vcpus_lock_);
    if (!free_.empty()) {
      vcpu = free_.back();
      free_.pop_back();
    }
  }
  if (!vcpu) {
    auto created = create_vcpu();
    LockGuard hold(vcpus_lock_);
    if (!created && nice_.empty()) return std::unexpected(created.error());
    vcpu = created ? *created : nice_.back();
    if (!created) nice_.pop_back();
  }
  vcpu->recycle();
  return vcpu;
}

void ProcessMachine::release_vcpu(Vcpu* vcpu) {
  auto* const released = static_cast<ProcessVcpu*>(vcpu);
  const bool nice = released->stays_nice();
  LockGuard hold(vcpus_lock_);
  (nice ? nice_ : free_).push_back(released);
}

Machine::Totals ProcessMachine::totals() const {
  SharedLock here(here_);
  Totals t = past_;
  {
    LockGuard hold(vcpus_lock_);
    for (const auto& v : vcpus_) t.add(v->counters());
  }
  if (mirror_) {
    const Mirror::Counts c = mirror_->counts();
    t.fills += c.fills, t.refills += c.refills, t.evictions += c.evictions, t.mappings = c.mappings;
  }
  return t;
}

}  // namespace ramet::vmm::process
