#include "vmm/snapshot/collect.hpp"

#include <fmt/format.h>

#include <map>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/program/vdso.hpp"
#include "vmm/linux/time/guest_time.hpp"
#include "vmm/linux/time/timers.hpp"
#include "vmm/snapshot/open_files.hpp"

namespace ramet::vmm::snapshot {
namespace {

std::unexpected<Failure> refused(const std::string& why) { return failure("the program cannot be saved: " + why); }

class Collector {
 public:
  explicit Collector(Thread& first) : first_(first), process_(first.process), files_(process_.files.state()) {}

  Status threads(bool hook);
  Status process();
  Status files();
  Status memory();
  ProcessState state;

 private:
  Status add_thread(Thread&, const UserRegs&);
  std::expected<int, std::string> add_mapping(const mm::Region&, const std::shared_ptr<OpenFile>&);

  Thread& first_;
  Process& process_;
  Files::State& files_;
  FilesToSave open_{first_, state};
  std::map<const mm::Backing*, int> mappings_;
};

std::vector<std::string> to_text(const PendingSignals& pending) {
  std::vector<std::string> all;
  for (const siginfo_t& info : pending.queue) all.push_back(to_hex(std::as_bytes(std::span(&info, 1))));
  return all;
}

CredentialsState to_state(const Credentials& c) {
  const auto ids = [](const Credentials::Ids& of) {
    return std::array<std::uint32_t, 4>{of.real, of.effective, of.saved, of.file};
  };
  return {.user = ids(c.user),
          .group = ids(c.group),
          .groups = {c.groups.begin(), c.groups.end()},
          .capabilities = {c.inheritable, c.permitted, c.effective, c.bounding, c.ambient},
          .securebits = c.securebits};
}

Status Collector::add_thread(Thread& thread, const UserRegs& regs) {
  if (in_vdso(thread.image(), regs[thread.abi().reg.pc]))
    return refused("one of its threads does not come out of the vDSO, where it reads the host's clock");
  FpState fp;
  if (auto got = thread.vcpu().get_fp(fp); !got) return got;
  std::span<const std::byte> area = fp.area;
  while (!area.empty() && area.back() == std::byte{0}) area = area.first(area.size() - 1);
  ThreadState t;
  t.tid = thread.former_tid ? thread.former_tid : thread.tid;
  if (thread.tid == process_.pid) state.pid = t.tid;
  t.name = thread.name();
  const arch::GuestAbi& abi = thread.abi();
  t.regs.assign(regs.word.begin(), regs.word.begin() + abi.reg.count);
  for (unsigned n = 0; n < abi.bases; ++n) t.bases.push_back(thread.vcpu().base(n));
  t.fp = to_hex(area);
  t.clear_child_tid = thread.clear_child_tid;
  t.robust_list = thread.robust_list;
  {
    LockGuard guard(process_.threads_lock);
    t.nice = thread.nice();
    const Scheduling& s = thread.scheduling;
    t.policy = s.policy, t.priority = s.priority, t.reset_on_fork = s.reset_on_fork, t.io_priority = s.io_priority;
    if (const auto& who = thread.credentials(); who != Credentials::of_vmm()) t.credentials.push_back(to_state(*who));
  }
  LockGuard guard(process_.signals.lock);
  t.blocked = thread.signals.blocked;
  t.pending = to_text(thread.signals.pending);
  t.altstack = thread.signals.altstack.sp;
  t.altstack_size = thread.signals.altstack.size;
  t.altstack_flags = thread.signals.altstack.flags;
  state.threads.push_back(std::move(t));
  return {};
}

Status Collector::threads(bool hook) {
  state.pid = process_.pid;
  if (process_.family.size() != 1) return refused("it has processes besides its first one; only one can be saved");
  UserRegs regs = first_.regs();
  if (!hook) first_.abi().repeat_call(regs);  // the register still holds the call's number
  state.at_hook = hook;
  if (auto added = add_thread(first_, regs); !added) return added;
  std::vector<Thread*> others;
  {
    LockGuard guard(process_.threads_lock);
    for (auto& thread : process_.threads)
      if (thread.get() != &first_) others.push_back(thread.get());  // parked: they stay
  }
  for (Thread* thread : others)
    if (auto added = add_thread(*thread, thread->regs()); !added) return added;
  return {};
}

Status Collector::process() {
  const auto& features = process_.machine().features();
  state.processor = {features.model_name, features.flags, features.fp.components, features.fp.bytes};
  state.deny_wx = process_.deny_wx;
  state.oom_adjustment = process_.oom.adjustment.load(std::memory_order_relaxed);
  state.oom_least = process_.oom.least.load(std::memory_order_relaxed);
  state.generation = process_.family.generation;
  state.generation_signal = process_.generation_signal.load(std::memory_order_relaxed);
  {
    LockGuard guard(process_.signals.lock);
    for (const SignalAction& a : process_.signals.actions)
      state.actions.push_back({a.handler, a.flags, a.restorer, a.mask});
    state.pending = to_text(process_.signals.pending);
  }
  {
    LockGuard guard(process_.limits.lock);
    for (const rlimit64& limit : process_.limits.value) state.limits.push_back({limit.rlim_cur, limit.rlim_max});
  }
  if (process_.timers->posix_count()) return refused("it has timers of timer_create(2)");
  for (int which = 0; which < 3; ++which) {
    itimerspec t{};
    process_.timers->get_interval_timer(which, t);
    state.timers.push_back({t.it_value.tv_sec, t.it_value.tv_nsec, t.it_interval.tv_sec, t.it_interval.tv_nsec});
  }
  for (const timespec& shown : process_.family.clocks.now()) state.clocks.push_back({shown.tv_sec, shown.tv_nsec});
  Image& image = first_.image();
  state.executable = image.executable;
  state.arguments = image.arguments;
  state.environment = image.environment;
  for (auto [key, value] : image.auxv) state.auxv.push_back({key, value});
  state.stack_top = image.stack_top;
  state.stack_limit = image.stack_limit;
  state.brk_start = image.brk_start;
  state.lock_to_come = image.lock_to_come.load(std::memory_order_relaxed);
  LockGuard guard(image.brk_lock);
  state.brk = image.brk;
  return {};
}

Status Collector::files() {
  for (const Mount& mount : files_.mounts)
    if (mount.scratch && mount.scratch->used())
      return refused(
          fmt::format("it has files in {}, which goes with it; share a directory there (--dir)", mount.guest));
  {
    LockGuard guard(files_.locks_lock);
    if (!files_.locked.empty()) return refused("it holds locks on files");
  }
  if (auto added = open_.add_descriptors(); !added) return refused(added.error());
  {
    LockGuard guard(files_.lock);
    state.umask = files_.umask ? static_cast<int>(*files_.umask) : -1;
  }
  if (const auto directory = files_.working_directory(); directory->synthetic) {
    state.directory = directory->path;
  } else {
    auto path = files_.current_path(Files::State::node_of(directory));
    if (!path) return refused("its working directory is gone");
    state.directory = *path;
  }
  if (const auto& file = first_.image().file) {
    if (auto index = open_.add(file))
      state.executable_file = *index;  // else /proc/self/exe leads where `executable` does
  }
  return {};
}

std::expected<int, std::string> Collector::add_mapping(const mm::Region& region,
                                                       const std::shared_ptr<OpenFile>& file) {
  const auto* backing = region.backing.get();
  if (auto found = mappings_.find(backing); found != mappings_.end()) return found->second;
  auto index = open_.add(file);
  if (!index) return index;
  MappingState m{.file = *index, .shared = region.shared};
  if (region.shared) {
    const auto shared = backing->shared();
    m.offset = shared.bank_offset, m.length = shared.bank->size();
  }
  state.mappings.push_back(m);
  return mappings_[backing] = static_cast<int>(state.mappings.size() - 1);
}

Status Collector::memory() {
  mm::AddressSpace& space = first_.memory();
  if (space.pins() != 0) return refused("it has memory that is pinned for devices");
  {
    LockGuard guard(process_.family.sysv_memory.lock);
    if (!process_.family.sysv_memory.segments.empty()) return refused("it has System V shared memory (shmget)");
  }
  state.memory_bytes = space.limit_bytes();
  state.mmap_top = space.mmap_top();
  std::vector<mm::Region> regions;
  space.visit_regions([&](const mm::Region& r) { regions.push_back(r); });
  for (const mm::Region& r : regions) {
    RegionState s{.start = r.start,
                  .end = r.end,
                  .prot = static_cast<int>(r.prot),
                  .max_prot = static_cast<int>(r.max_prot),
                  .huge = static_cast<int>(r.huge),
                  .shared = r.shared,
                  .grows_down = r.grows_down,
                  .dont_fork = r.dont_fork,
                  .wipe_on_fork = r.wipe_on_fork,
                  .locked = r.locked,
                  .offset = r.offset,
                  .name = r.name};
    if (r.backing) {
      const auto file = Files::file_of(*r.backing);
      std::expected<int, std::string> index = std::unexpected("is memory that processes share");
      if (file && file->standard < 0) index = add_mapping(r, file);
      if (index) {
        s.mapping = *index;
      } else if (r.shared) {
        return refused(
            fmt::format("its mapping of {} at {:#x} {}", r.backing->identity().path, r.start, index.error()));
      } else {
        // The file cannot be opened again, so its pages are saved; those beyond its end become zeroes.
        s.offset = 0;
        if (r.prot != mm::Prot::None) {
          auto read = space.advise(r.start, r.end - r.start, mm::Advice::PopulateRead);
          if (!read && read.error() != mm::Error::BeyondEnd)
            return refused(
                fmt::format("{} cannot be read: {}", r.backing->identity().path, mm::describe(read.error())));
        }
      }
    }
    state.regions.push_back(std::move(s));
  }
  return {};
}

}  // namespace

std::expected<ProcessState, Failure> collect(Thread& first, bool hook) {
  Collector c(first);
  Status done = c.threads(hook);
  if (done) done = c.process();
  if (done) done = c.files();
  if (done) done = c.memory();
  if (!done) return std::unexpected(done.error());
  return std::move(c.state);
}

}  // namespace ramet::vmm::snapshot
