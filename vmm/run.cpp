// Running a program in a microVM: the run itself, and its report.
#include "vmm/run.hpp"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <condition_variable>
#include <system_error>
#include <thread>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/linux/files/pin_holders.hpp"
#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/program/loader.hpp"
#include "vmm/linux/signals/forward.hpp"
#include "vmm/linux/syscall.hpp"
#include "vmm/signals_blocked.hpp"
#include "vmm/snapshot/restore.hpp"

namespace ramet::vmm {
namespace {

using Clock = std::chrono::steady_clock;

// Ends the program when its time is over. A thread of its own, so that it works whatever the guest does.
class Watchdog {
 public:
  // Errors: the host gives no thread.
  Status start(Process& process, std::chrono::nanoseconds timeout) try {
    SignalsBlocked blocked;
    thread_ = std::thread([this, &process, timeout] {
      UniqueLock lock(lock_);
      if (!done_.wait_for(lock.standard(), timeout, [this]() RAMET_REQUIRES(lock_) { return over_; })) {
        lock.unlock();
        double seconds = std::chrono::duration<double>(timeout).count();
        process.end({Ending::Kind::TimedOut, 0, fmt::format("stopped after --timeout {}s", seconds)});
      }
    });
    return {};
  } catch (const std::system_error& e) {
    return failure(fmt::format("the host cannot start a thread to watch the time: {}", e.what()));
  }
  ~Watchdog() {
    if (!thread_.joinable()) return;
    {
      LockGuard guard(lock_);
      over_ = true;
    }
    done_.notify_one();
    thread_.join();
  }

 private:
  Mutex lock_;
  std::condition_variable done_;
  bool over_ RAMET_GUARDED_BY(lock_) = false;
  std::thread thread_;
};

// Calls the observer at intervals as long as it lives.
class Watch {
 public:
  // Errors: the host gives no thread.
  Status start(const Observer& observer, const Process& process) try {
    if (!observer.look || observer.every.count() == 0) return {};
    SignalsBlocked blocked;
    thread_ = std::jthread([&observer, &process](std::stop_token stop) {
      Mutex lock;
      std::condition_variable_any stopped;
      UniqueLock guard(lock);
      while (!stopped.wait_for(guard, stop, observer.every, [&] { return stop.stop_requested(); })) {
        observer.look(process.image()->memory(), false);
      }
    });
    return {};
  } catch (const std::system_error& e) {
    return failure(fmt::format("the host cannot start a thread to look at the guest: {}", e.what()));
  }

 private:
  std::jthread thread_;
};

Counts by_name(const std::map<Call, std::uint64_t>& counts) {
  Counts result;
  for (auto [call, count] : counts) result.emplace_back(syscall_name(call), count);
  std::ranges::stable_sort(result, std::greater{}, &Counts::value_type::second);
  return result;
}

// The one thread that a new program has.
std::expected<std::vector<std::unique_ptr<Thread>>, Failure> load_program(Process& process, const RunOptions& options) {
  (void)process.files.enter_directory(options.working_directory);  // on failure it stays /, see RunOptions
  auto start = load(process, options.program, options.arguments, options.environment, Limits::kStackBytes);
  if (!start) return std::unexpected(start.error());
  auto thread = process.make_thread(process.pid);
  if (!thread) return std::unexpected(thread.error());
  (*thread)->start_at(start->pc, start->sp);
  const std::string executable = process.image()->executable;
  (*thread)->set_name(executable.substr(executable.rfind('/') + 1).substr(0, 15));
  std::vector<std::unique_ptr<Thread>> threads;
  threads.push_back(std::move(*thread));
  return threads;
}

}  // namespace

std::expected<Report, Failure> run(Shell& shell, const RunOptions& options) {
  const auto begin = Clock::now();
  // Outlives everything below: the last writes of a ring raise SIGPIPE, too.
  const CallerSignals caller_signals;
  auto files = Files::create(options.shares);
  if (!files) return std::unexpected(files.error());
  Report report;
  report.machine = name_of(shell.choice());
  std::optional<Clock::time_point> ended;
  {
    Family family(shell, options.from ? snapshot::id_of_copy(*options.from) : 0);
    // Not owned: the shell is the caller's. The family makes, and owns, those of further processes.
    std::shared_ptr<Shell> borrowed(&shell, [](Shell*) {});
    auto image = std::make_shared<Image>(std::move(borrowed));
    auto process = std::make_shared<Process>(family, family.first_id(), std::move(image), std::move(*files));
    if (!family.add(process, 0, SIGCHLD, Limits::kProcesses)) return failure("no room for the first process");
    process->files.attach_stdio(options.standard[0], options.standard[1], options.standard[2]);
    process->files.add_scratch();
    process->deny_wx = options.deny_wx;
    process->saving = options.saving;
    auto threads = options.from ? snapshot::restore_process(*options.from, *process, options.copy, options.arguments)
                                : load_program(*process, options);
    if (!threads) return std::unexpected(threads.error());
    const auto loaded = Clock::now();
    report.setup = loaded - begin;
    {
      ForwardSignals forwarding(*process);
      Watch watch;
      if (auto r = watch.start(options.observer, *process); !r) return std::unexpected(r.error());
      Watchdog watchdog;
      if (options.timeout)
        if (auto r = watchdog.start(*process, *options.timeout); !r) return std::unexpected(r.error());
      report.ending = process->run(std::move(*threads));
      family.end_all();
    }
    ended = Clock::now();
    report.run = *ended - loaded;
    {
      auto last = process->image();  // execve(2) may have replaced the first one
      report.usage = last->memory().usage();
      const mm::Account& family_account = *process->files.state().account;
      report.family_held_bytes = family_account.held();
      report.family_peak_held_bytes = family_account.peak_held();
      if (options.observer.look) options.observer.look(last->memory(), true);
      report.exits = shell.machine().totals();
      report.memory_counters = list(shell.memory().counters());
    }
    process->finish();
    report.device_counters = device_counters(*process);
    report.calls = by_name(family.calls());
    report.unknown_calls = by_name(family.unknown_calls());
    report.threads = family.threads_ever();
    const Family::Gone others = family.gone();  // the other shells
    report.exits += others.totals;
    add(report.memory_counters, others.memory);
  }
  report.teardown = Clock::now() - *ended;
  return report;
}

}  // namespace ramet::vmm
