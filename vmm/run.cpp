// Running a program in a microVM: shells, the run itself, and its report.
#include "vmm/run.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <sys/random.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "vmm/kick_signal.hpp"
#include "vmm/kvm/kvm_machine.hpp"
#include "vmm/linux/devices.hpp"
#include "vmm/linux/loader.hpp"
#include "vmm/linux/syscall.hpp"

namespace ramet::vmm {
namespace {

using Clock = std::chrono::steady_clock;

// Signals of the host that are the guest's to handle while it runs, as if it had been started directly.
constexpr int kForwarded[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGCONT};

// One program of a process gets them: the first that is running. Pairs: stored by ForwardSignals, loaded by
// the handler on any host thread; the process outlives the handlers, which are taken away first.
std::atomic<Process*> forward_to{nullptr};
std::atomic<int> in_handler{0};  // pairs: the handler counts itself in before it loads forward_to

void forward(int sig) {
  in_handler.fetch_add(1, std::memory_order_seq_cst);
  int saved = errno;
  if (Process* process = forward_to.load(std::memory_order_seq_cst)) process->forward_from_handler(bit_of(sig));
  errno = saved;
  in_handler.fetch_sub(1, std::memory_order_seq_cst);
}

class ForwardSignals {
 public:
  explicit ForwardSignals(Process& process) {
    Process* nobody = nullptr;
    if (!forward_to.compare_exchange_strong(nobody, &process)) return;
    mine_ = true;
    for (std::size_t i = 0; i < std::size(kForwarded); ++i) {
      struct sigaction action{};
      action.sa_handler = forward;
      action.sa_flags = SA_RESTART;
      sigfillset(&action.sa_mask);
      sigaction(kForwarded[i], &action, &old_[i]);
      // What the caller ignores (nohup) the program starts out ignoring, as over execve(2).
      if (old_[i].sa_handler == SIG_IGN) process.signals.actions[kForwarded[i] - 1].handler = 1;
    }
    // A guest that writes into a closed pipe gets its own SIGPIPE; ramet must not die of the host's.
    struct sigaction ignore{};
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &ignore, &old_pipe_);
  }
  ~ForwardSignals() {
    if (!mine_) return;
    for (std::size_t i = 0; i < std::size(kForwarded); ++i) sigaction(kForwarded[i], &old_[i], nullptr);
    sigaction(SIGPIPE, &old_pipe_, nullptr);
    forward_to.store(nullptr, std::memory_order_seq_cst);
    // A handler on another thread may still use the process; it is short, and does not wait for us.
    while (in_handler.load(std::memory_order_seq_cst) != 0) sched_yield();
  }
  ForwardSignals(const ForwardSignals&) = delete;
  ForwardSignals& operator=(const ForwardSignals&) = delete;

 private:
  bool mine_ = false;
  struct sigaction old_[std::size(kForwarded)];
  struct sigaction old_pipe_;
};

// Looks at intervals as long as it lives.
class Watch {
 public:
  // Errors: the host gives no thread.
  Status start(const Observer& observer, const mm::AddressSpace& space) try {
    if (!observer.look || observer.every.count() == 0) return {};
    thread_ = std::jthread([&observer, &space](std::stop_token stop) {
      std::mutex lock;
      std::condition_variable_any stopped;
      std::unique_lock guard(lock);
      while (!stopped.wait_for(guard, stop, observer.every, [&] { return stop.stop_requested(); })) {
        observer.look(space, false);
      }
    });
    return {};
  } catch (const std::system_error& e) {
    return failure(fmt::format("the host cannot start a thread to look at the guest: {}", e.what()));
  }

 private:
  std::jthread thread_;
};

Counts by_name(const std::map<unsigned, std::uint64_t>& counts) {
  Counts result;
  for (auto [number, count] : counts) result.emplace_back(syscall_name(number), count);
  std::ranges::stable_sort(result, std::greater{}, &Counts::value_type::second);
  return result;
}

// Room for the tables of the guest's memory however sparsely it is used, within reason: a program that
// touches one page in each 2 MiB of --memory still fits. Taken from the host only as tables are made.
std::uint64_t table_bytes(std::uint64_t memory_bytes) {
  return mm::align_up(std::min<std::uint64_t>((8ull << 20) + memory_bytes / 32, 2ull << 30), mm::kBlockSize);
}

}  // namespace

Counts list(const mm::Counters& c) {
  return {{"faults", c.faults}, {"faults_zero", c.faults_zero}, {"faults_file", c.faults_file},
          {"faults_flipped", c.faults_flipped}, {"faults_cow", c.faults_cow}, {"faults_spurious", c.faults_spurious}, {"faults_refused", c.faults_refused}, {"faults_vmm", c.faults_vmm},
          {"spf", c.spf}, {"spf:pte_lock", c.spf_pte_lock}, {"spf:region_changed", c.spf_region_changed},
          {"spf:not_supported", c.spf_not_supported}, {"spf:table_changed", c.spf_table_changed}, {"spf:budget", c.spf_budget},
          {"pages_mapped", c.pages_mapped}, {"pages_around", c.pages_around}, {"blocks_mapped", c.blocks_mapped},
          {"blocks_around", c.blocks_around}, {"flushes", c.flushes}, {"flushes_relaxed", c.flushes_relaxed},
          {"flush_ranges", c.flush_ranges}, {"flush_tables", c.flush_tables}, {"flushes_avoided", c.flushes_avoided},
          {"split:PMD", c.split_pmd}, {"split:PUD", c.split_pud}, {"merge:PMD", c.merge_pmd}, {"merge:PUD", c.merge_pud},
          {"merge:keep-4k", c.merge_refused_keep_4k}, {"merge:region", c.merge_refused_region},
          {"merge:alignment", c.merge_refused_alignment}, {"merge:format", c.merge_refused_format},
          {"freezes", c.freezes}, {"pages_copied", c.pages_copied}, {"tables_unshared", c.tables_unshared},
          {"tables_allocated", c.tables_allocated}, {"tables_freed", c.tables_freed}};
}

Shell::~Shell() {
  space_.reset();
  if (physical_) physical_->unobserve();
}

std::expected<std::unique_ptr<Shell>, Failure> Shell::create(std::uint64_t memory_bytes, const Techniques& techniques) {
  install_kick_signal();
  std::unique_ptr<Shell> shell(new Shell);
  auto machine = create_kvm_machine();
  if (!machine) return std::unexpected(machine.error());
  auto out_of_memory = [&](mm::Error e) {
    return failure(fmt::format("the host cannot give a guest {} MiB of memory: {}", memory_bytes >> 20, mm::describe(e)));
  };
  auto physical = mm::Memory::create({.data_bytes = mm::align_up(memory_bytes, mm::kBlockSize), .table_bytes = table_bytes(memory_bytes)});
  if (!physical) return out_of_memory(physical.error());
  shell->physical_ = std::move(*physical);
  shell->machine_ = std::move(*machine);
  if (auto r = shell->physical_->observe(*shell->machine_); !r) return out_of_memory(r.error());

  mm::AddressSpace::Config config;
  config.speculative_faults = techniques.speculative_faults;
  config.relaxed_flushes = techniques.relaxed_flushes;
  config.merge = techniques.huge_merge;
  config.giants = shell->machine_->features().giant_pages;
  config.eager_accessed_dirty = shell->machine_->features().dear_accessed_dirty;
  std::uint64_t random = 0;
  if (getrandom(&random, sizeof random, GRND_NONBLOCK) == sizeof random)
    config.mmap_top -= mm::align_down(random % (1ull << 36), mm::kBlockSize);
  auto space = mm::AddressSpace::create(config, *shell->physical_, *shell->machine_);
  if (!space) return out_of_memory(space.error());
  shell->space_ = std::move(*space);
  if (auto r = shell->machine_->attach(*shell->space_); !r) return std::unexpected(r.error());
  return shell;
}

std::expected<Report, Failure> run(Shell& shell, const RunOptions& options) {
  const auto begin = Clock::now();
  auto files = Files::create(options.shares);
  if (!files) return std::unexpected(files.error());
  Report report;
  std::optional<Clock::time_point> ended;
  {
    Process process(shell.machine(), shell.memory(), std::move(*files));
    process.files.attach_stdio(0, 1, 2);
    process.files.add_scratch();
    (void)process.files.enter_directory(options.working_directory);  // else it stays /, see RunOptions
    process.deny_wx = options.deny_wx;
    auto start = load(process, options.program, options.arguments, options.environment, Limits::kStackBytes);
    if (!start) return std::unexpected(start.error());
    const auto loaded = Clock::now();
    report.setup = loaded - begin;
    {
      ForwardSignals forwarding(process);
      Watch watch;
      if (auto r = watch.start(options.observer, shell.memory()); !r) return std::unexpected(r.error());
      report.ending = process.run(start->pc, start->sp, options.timeout);
    }
    ended = Clock::now();
    report.run = *ended - loaded;
    report.usage = shell.memory().usage();
    report.calls = by_name(process.calls());
    report.unknown_calls = by_name(process.unknown_calls());
    report.threads = process.threads_ever();
    report.exits = shell.machine().totals();
    report.memory_counters = list(shell.memory().counters());
    report.device_counters = device_counters(process);
    if (options.observer.look) options.observer.look(shell.memory(), true);
  }
  report.teardown = Clock::now() - *ended;
  return report;
}

}  // namespace ramet::vmm
