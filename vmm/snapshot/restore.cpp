#include "vmm/snapshot/restore.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/auxvec.h>
#include <linux/securebits.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <iterator>
#include <optional>
#include <set>
#include <sstream>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/proc/generation.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/program/vdso.hpp"
#include "vmm/linux/signals/signalfd.hpp"
#include "vmm/linux/time/guest_time.hpp"
#include "vmm/linux/time/timers.hpp"
#include "vmm/snapshot/open_files.hpp"

namespace ramet::vmm::snapshot {
namespace {

// --- files ---

Status restore_files(const File& file, Process& process) {
  const ProcessState& state = file.state();
  if (auto restored = restore_descriptors(file, process); !restored) return restored;
  if (!process.files.enter_directory(state.directory))
    return failure(
        fmt::format("{} cannot be continued: its working directory {} is not shared with it now (--dir, --root)",
                    file.path(), state.directory));
  Files::State& files = process.files.state();
  LockGuard guard(files.lock);
  if (state.umask >= 0) files.umask = static_cast<mode_t>(state.umask) & 0777;
  return {};
}

// --- memory ---

std::expected<std::vector<std::shared_ptr<mm::Backing>>, Failure> map_files(const File& file, mm::Memory& memory,
                                                                            Files& files) {
  const ProcessState& state = file.state();
  std::vector<std::shared_ptr<mm::Backing>> backings;
  for (const MappingState& m : state.mappings) {
    if (!index_ok(m.file, state.files.size())) return impossible(file, "mappings");
    auto opened = open_by_path(file, files.state(), state.files[static_cast<std::size_t>(m.file)]);
    if (!opened) return std::unexpected(opened.error());
    std::uint64_t offset = m.shared ? m.offset : 0;
    auto backing = files.backing(*opened, m.shared, false, offset, m.shared ? m.length : kPageBytes, memory);
    if (!backing || !*backing)
      return failure(fmt::format("{} cannot be continued: {} cannot be mapped", file.path(), (*opened)->path));
    backings.push_back(std::move(*backing));
  }
  return backings;
}

constexpr int kProtBits = static_cast<int>(mm::kAllProt);

std::expected<std::vector<mm::Region>, Failure> make_regions(const File& file,
                                                             std::span<const std::shared_ptr<mm::Backing>> backings) {
  const ProcessState& state = file.state();
  std::vector<mm::Region> regions;
  for (const RegionState& s : state.regions) {
    mm::Region r;
    r.start = s.start, r.end = s.end, r.offset = s.offset;
    r.shared = s.shared, r.grows_down = s.grows_down, r.dont_fork = s.dont_fork;
    r.wipe_on_fork = s.wipe_on_fork, r.locked = s.locked;
    r.name = s.name;
    const bool known_huge = s.huge >= 0 && s.huge <= static_cast<int>(mm::Region::Huge::Never);
    if ((s.prot & ~kProtBits) || (s.max_prot & ~kProtBits) || !known_huge || s.name.size() > 64)
      return impossible(file, "regions");
    r.prot = static_cast<mm::Prot>(s.prot), r.max_prot = static_cast<mm::Prot>(s.max_prot);
    r.huge = static_cast<mm::Region::Huge>(s.huge);
    if (s.mapping != -1) {
      if (!index_ok(s.mapping, backings.size())) return impossible(file, "regions");
      const MappingState& m = state.mappings[static_cast<std::size_t>(s.mapping)];
      const FileState& f = state.files[static_cast<std::size_t>(m.file)];
      const bool writable = (f.flags & O_ACCMODE) == O_RDWR;
      if (s.wipe_on_fork || m.shared != s.shared || (s.shared && !writable && mm::has(r.max_prot, mm::Prot::Write)) ||
          s.offset > (1ull << 62))
        return impossible(file, "regions");
      r.backing = backings[static_cast<std::size_t>(s.mapping)];
    } else if (s.shared || s.offset) {
      return impossible(file, "regions");
    }
    regions.push_back(std::move(r));
  }
  return regions;
}

// --- threads ---

bool take_pending(const std::vector<std::string>& saved, PendingSignals& pending) {
  if (saved.size() > 2048) return false;
  for (const std::string& text : saved) {
    siginfo_t info{};
    if (!from_hex(text, std::as_writable_bytes(std::span(&info, 1))) || info.si_signo < 1 || info.si_signo > kSignals)
      return false;
    pending.set |= bit_of(info.si_signo);
    pending.queue.push_back(info);
  }
  return true;
}

std::optional<Credentials> from_state(const CredentialsState& s) {
  Credentials c;
  c.user = {s.user[0], s.user[1], s.user[2], s.user[3]};
  c.group = {s.group[0], s.group[1], s.group[2], s.group[3]};
  c.groups.assign(s.groups.begin(), s.groups.end());
  const auto& [inheritable, permitted, effective, bounding, ambient] = s.capabilities;
  c.inheritable = inheritable, c.permitted = permitted, c.effective = effective, c.bounding = bounding,
  c.ambient = ambient;
  c.securebits = s.securebits;
  constexpr auto kNobody = static_cast<std::uint32_t>(-1);  // to setresuid(2) and its like: unchanged
  for (const auto* ids : {&s.user, &s.group})
    if (std::ranges::find(*ids, kNobody) != ids->end()) return std::nullopt;
  const Capabilities all = inheritable | permitted | effective | bounding | ambient;
  const bool sets = !(all & ~kAllCapabilities) && !(effective & ~permitted) && !(ambient & ~(permitted & inheritable));
  const bool groups = c.groups.size() <= Credentials::kMostGroups && std::ranges::is_sorted(c.groups);
  return sets && groups && !(s.securebits & ~(SECURE_ALL_BITS | SECURE_ALL_LOCKS)) ? std::optional(c) : std::nullopt;
}

Status restore_thread(const File& file, const ThreadState& saved, Thread& thread)
    RAMET_EXCLUDES(thread.process.threads_lock) {
  const arch::GuestAbi& abi = thread.abi();
  FpState fp;
  if (saved.regs.size() != abi.reg.count || saved.bases.size() != abi.bases ||
      !std::ranges::all_of(saved.bases, abi.is_base) || !from_hex(saved.fp, fp.area) || saved.name.size() > 15 ||
      !take_pending(saved.pending, thread.signals.pending))
    return impossible(file, "threads");
  UserRegs regs;
  std::ranges::copy(saved.regs, regs.word.begin());
  regs[abi.reg.flags] = (regs[abi.reg.flags] & abi.user_flags) | abi.fixed_flags;
  thread.regs() = regs;
  for (unsigned n = 0; n < abi.bases; ++n) thread.vcpu().set_base(n, saved.bases[n]);
  if (auto set = thread.vcpu().set_fp(fp); !set) return set;
  thread.set_name(saved.name);
  thread.clear_child_tid = saved.clear_child_tid;
  thread.robust_list = saved.robust_list;
  const Scheduling scheduling{saved.policy, saved.priority, saved.reset_on_fork, saved.io_priority};
  if (saved.nice < -20 || saved.nice > 19 || saved.credentials.size() > 1 || !possible(scheduling) ||
      refused_io_priority(saved.io_priority, true) != 0)
    return impossible(file, "threads");
  for (const CredentialsState& s : saved.credentials) {
    auto who = from_state(s);
    if (!who) return impossible(file, "credentials");
    thread.set_credentials(std::move(*who));
  }
  {
    LockGuard guard(thread.process.threads_lock);
    thread.scheduling = scheduling;
    if (thread.set_nice(saved.nice) != 0)
      return failure(fmt::format("{} cannot be continued: the host refuses the program its priority", file.path()));
  }
  thread.signals.blocked = saved.blocked & ~kUnblockable;
  thread.signals.altstack = {saved.altstack, saved.altstack_size, saved.altstack_flags};
  thread.look_at_signals();
  return {};
}

Status restore_actions(const File& file, ProcessSignals& signals) RAMET_EXCLUDES(signals.lock) {
  const ProcessState& state = file.state();
  LockGuard guard(signals.lock);
  if (state.actions.size() != kSignals || !take_pending(state.pending, signals.pending))
    return impossible(file, "signals");
  for (std::size_t i = 0; i < kSignals; ++i) {
    const SignalActionState& a = state.actions[i];
    signals.actions[i] = {a.handler, a.flags, a.restorer, a.mask};
  }
  for (const int sig : {SIGKILL, SIGSTOP}) signals.actions[static_cast<std::size_t>(sig - 1)] = {};
  return {};
}

Status restore_limits(const File& file, Limits& limits) RAMET_EXCLUDES(limits.lock) {
  const ProcessState& state = file.state();
  LockGuard guard(limits.lock);
  if (state.limits.size() != limits.value.size()) return impossible(file, "limits");
  for (std::size_t i = 0; i < state.limits.size(); ++i) {
    rlimit64& limit = limits.value[i];  // never above what a program starts with
    limit.rlim_max = std::min<rlim64_t>(limit.rlim_max, state.limits[i][1]);
    limit.rlim_cur = std::min<rlim64_t>(limit.rlim_max, state.limits[i][0]);
  }
  return {};
}

Status restore_policy(const File& file, Process& process) RAMET_EXCLUDES(process.signals.lock, process.limits.lock) {
  const ProcessState& state = file.state();
  if (auto done = restore_actions(file, process.signals); !done) return done;
  if (auto done = restore_limits(file, process.limits); !done) return done;
  process.deny_wx = process.deny_wx || state.deny_wx;
  if (std::abs(std::int64_t{state.oom_adjustment}) > kMostOomAdjustment ||
      std::abs(std::int64_t{state.oom_least}) > kMostOomAdjustment)
    return impossible(file, "limits");
  process.oom.adjustment = state.oom_adjustment, process.oom.least = state.oom_least;
  if (state.timers.size() != 3) return impossible(file, "timers");
  for (int which = 0; which < 3; ++which) {
    const auto& t = state.timers[static_cast<std::size_t>(which)];
    if (process.timers->set_interval_timer(which, {.it_interval = {t[2], t[3]}, .it_value = {t[0], t[1]}}, nullptr) !=
        0)
      return impossible(file, "timers");
  }
  if (!process.timers->watch_limit())
    return failure("the host has no thread for the program's limit of processor time");
  return {};
}

// The clocks go on from where they were, those of the program's vDSO as well.
Status restore_clocks(const File& file, Process& process) {
  constexpr std::int64_t kMostSeconds = 1ll << 40;
  Clocks::Now shown;
  if (file.state().clocks.size() != shown.size()) return impossible(file, "clocks");
  for (std::size_t i = 0; i < shown.size(); ++i) {
    shown[i] = {file.state().clocks[i][0], file.state().clocks[i][1]};
    if (!valid_time(shown[i]) || shown[i].tv_sec > kMostSeconds) return impossible(file, "clocks");
  }
  process.family.clocks.go_on_from(shown);
  auto renewed = renew_vdso(*process.image(), process.family.clocks);
  if (!renewed)
    return failure(fmt::format("no room for the memory of {}: {}", file.path(), mm::describe(renewed.error())));
  return {};
}

Status restore_image(const File& file, Image& image) RAMET_EXCLUDES(image.brk_lock) {
  const ProcessState& state = file.state();
  const std::uint64_t end = image.abi.processor_end;
  if (state.brk_start > state.brk || state.brk >= end || state.stack_top >= end) return impossible(file, "addresses");
  image.executable = state.executable;
  image.arguments = state.arguments;
  image.environment = state.environment;
  for (const auto& [key, value] : state.auxv) {
    image.auxv.emplace_back(key, value);
    if (key == AT_SYSINFO_EHDR) image.vdso = value;
  }
  image.stack_top = state.stack_top;
  image.stack_limit = state.stack_limit;
  image.brk_start = state.brk_start;
  image.lock_to_come = state.lock_to_come & (MCL_FUTURE | MCL_ONFAULT);
  LockGuard guard(image.brk_lock);
  image.brk = state.brk;
  return {};
}

// Makes signalfds readable for pending signals.
void tell_pending(Process& process, std::span<const std::unique_ptr<Thread>> threads)
    RAMET_EXCLUDES(process.signals.lock) {
  LockGuard guard(process.signals.lock);
  SignalSet pending = process.signals.pending.set;
  for (const auto& thread : threads) pending |= thread->signals.pending.set;
  for (; pending; pending &= pending - 1) tell_signal_fds(process, std::countr_zero(pending) + 1);
}

// The answer to ramet_guest.h's call.
Status answer_hook(const File& file, Thread& thread, unsigned copy, const std::vector<std::string>& arguments) {
  if (!file.state().at_hook) {
    if (arguments.empty()) return {};
    return failure(fmt::format("{} was saved when it read its input, and takes no arguments", file.path()));
  }
  const auto call = thread.abi().arguments(thread.regs());
  thread.set_result(copy);
  const mm::Gva at = call[1];
  if (call[2] == 0) {
    if (arguments.empty()) return {};
    return failure(fmt::format("{} was saved by a call that takes no arguments (see ramet_guest.h)", file.path()));
  }
  std::string text;
  for (const std::string& argument : arguments) text += argument + '\0';
  text += '\0';
  if (text.size() > call[2]) {
    text.resize(call[2]);
    text.back() = '\0';
  }
  if (thread.memory().write(at, std::as_bytes(std::span(text)))) return {};
  return failure(fmt::format("{} has no memory where its arguments are to go", file.path()));
}

}  // namespace

int id_of_copy(const File& file) {
  std::set<int> had{file.state().pid};
  for (const ThreadState& thread : file.state().threads) had.insert(thread.tid);
  constexpr int kFirst = 300;  // RESERVED_PIDS
  for (;;) {
    const int id = kFirst + static_cast<int>(::arc4random_uniform(static_cast<std::uint32_t>(Family::kMaxId - kFirst)));
    if (!had.contains(id)) return id;
  }
}

Status check_instruction_set(const File& file, const arch::GuestAbi& here) {
  if (&file.abi() == &here) return {};
  return failure(fmt::format("{} is a snapshot of a program for {}; this machine runs {} programs", file.path(),
                             file.abi().name, here.name));
}

Status check_processor(const File& file, const Machine::Features& here) {
  const ProcessorState& seen = file.state().processor;
  std::istringstream had(here.flags), wanted(seen.features);
  const std::set<std::string> have{std::istream_iterator<std::string>(had), {}};
  std::string missing;
  for (std::string feature; wanted >> feature;)
    if (!have.contains(feature)) missing += (missing.empty() ? "" : ", ") + feature;
  const std::string saved_on = fmt::format("{} was saved on another processor ({})", file.path(), seen.model);
  if (!missing.empty()) return failure(fmt::format("{}; this one has not {}", saved_on, missing));
  if (seen.fp_components != here.fp.components || seen.fp_bytes != here.fp.bytes)
    return failure(
        fmt::format("{}, whose register state has another layout (components {:#x}, {} bytes; here {:#x}, {})",
                    saved_on, seen.fp_components, seen.fp_bytes, here.fp.components, here.fp.bytes));
  return {};
}

std::expected<std::vector<std::shared_ptr<mm::Bank>>, Failure> restore_memory(const std::shared_ptr<const File>& file,
                                                                              const std::shared_ptr<Pager>& pager,
                                                                              Shell& shell, Files& files) {
  if (file->state().pid < 1 || file->state().pid >= Family::kMaxId) return impossible(*file, "process id");
  if (auto served = check_instruction_set(*file, shell.machine().abi()); !served)
    return std::unexpected(served.error());
  if (auto served = check_processor(*file, shell.machine().features()); !served) return std::unexpected(served.error());
  mm::Memory& memory = shell.memory().physical();
  std::size_t sources = 0;
  for (auto f = file; f; f = f->parent()) ++sources;
  std::vector<std::shared_ptr<mm::Bank>> banks(sources);
  std::shared_ptr<const mm::Layer> layer;
  for (std::size_t i = sources; i-- > 0;) {
    if (pager->pages(i).empty()) continue;
    auto bank = Pager::make_bank(pager, i, memory);
    if (!bank) return failure(fmt::format("no room for the pages of {}: {}", file->path(), mm::describe(bank.error())));
    auto here = std::make_shared<mm::Layer>();
    here->below = mm::Layer::from(layer);
    here->data = *bank;
    here->data_parts = {{(*bank)->base(), (*bank)->end()}};
    layer = std::move(here);
    banks[i] = std::move(*bank);
  }
  auto backings = map_files(*file, memory, files);
  if (!backings) return std::unexpected(backings.error());
  auto regions = make_regions(*file, *backings);
  if (!regions) return std::unexpected(regions.error());
  std::vector<mm::Extent> contents;
  contents.reserve(file->runs().size());
  for (const Run& run : file->runs()) {
    if (run.source >= banks.size() || !banks[run.source] || run.page >= kMaxPages ||
        (run.page + run.pages) * kPageBytes > banks[run.source]->size())
      return impossible(*file, "list of pages");
    contents.push_back({run.start, banks[run.source]->base() + run.page * kPageBytes, run.pages});
  }
  auto restored = shell.memory().restore(std::move(layer), file->state().mmap_top, *regions, contents);
  if (!restored && restored.error() == mm::Error::Invalid) return impossible(*file, "memory");
  if (!restored)
    return failure(fmt::format("no room for the memory of {}: {}", file->path(), mm::describe(restored.error())));
  return banks;
}

std::expected<std::vector<std::unique_ptr<Thread>>, Failure> restore_process(
    const File& file, Process& process, unsigned copy, const std::vector<std::string>& arguments) {
  const ProcessState& state = file.state();
  if (state.generation == ~std::uint64_t{0} || state.generation_signal < 0 || state.generation_signal > kSignals)
    return impossible(file, "generation");
  process.family.generation = state.generation + 1;
  process.generation_signal.store(state.generation_signal, std::memory_order_relaxed);
  auto image = process.image();
  Status done = restore_files(file, process);
  if (done) done = restore_policy(file, process);
  if (done) done = restore_image(file, *image);
  if (done) done = restore_clocks(file, process);
  if (!done) return std::unexpected(done.error());
  tell_generation(process);
  if (index_ok(state.executable_file, state.files.size())) {
    auto executable = open_by_path(file, process.files.state(),
                                   state.files[static_cast<std::size_t>(state.executable_file)]);
    if (!executable) return std::unexpected(executable.error());
    image->file = std::move(*executable);
  }
  if (state.threads.empty() || state.threads.size() > Family::kMaxThreads) return impossible(file, "threads");
  std::set<int> ids;
  std::vector<std::unique_ptr<Thread>> threads;
  for (const ThreadState& saved : state.threads) {
    if (saved.tid < 1 || saved.tid >= Family::kMaxId || !ids.insert(saved.tid).second)
      return impossible(file, "threads");
    const bool leader = saved.tid == state.pid;
    auto thread = process.make_thread(leader ? process.pid : saved.tid);
    if (!thread) return std::unexpected(thread.error());
    if (auto ready = restore_thread(file, saved, **thread); !ready) return std::unexpected(ready.error());
    // The program's libraries have kept the saved id, also as the owner of locks that are held: the thread goes by
    // both.
    if (leader) (*thread)->former_tid = saved.tid;
    threads.push_back(std::move(*thread));
  }
  tell_pending(process, threads);
  if (auto answered = answer_hook(file, *threads.front(), copy, arguments); !answered)
    return std::unexpected(answered.error());
  return threads;
}

}  // namespace ramet::vmm::snapshot
