// libFuzzer's way into the system calls: a family of guest processes runs the input (system_calls/script.hpp) upon a
// model machine and a directory of its own. Afterwards the host is as it was, and the guests' memory adds up.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include <condition_variable>
#include <thread>

#include "tests/fuzz/system_calls/host.hpp"
#include "tests/fuzz/system_calls/machine.hpp"
#include "tests/scarce.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/signals/state.hpp"

namespace ramet::fuzz {
namespace {

// Wakes a guest that waits for what never comes, by a signal that it handles from the start; if that helps no more,
// ends it.
class Waker {
 public:
  Waker() : thread_([this] { work(); }) {}
  ~Waker() {
    {
      std::lock_guard guard(lock_);
      stop_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }
  void watch(vmm::Process* process, const Run* run) {
    {
      std::lock_guard guard(lock_);
      process_ = process, run_ = run, wakes_ = 0;
    }
    changed_.notify_one();
  }

 private:
  static constexpr std::chrono::milliseconds kTick{2};
  static constexpr unsigned kMostWakes = 12;
  void work() {
    std::unique_lock guard(lock_);
    std::uint64_t seen = 0;
    unsigned quiet = 0;
    while (!stop_) {
      if (!process_) {
        changed_.wait(guard);
        quiet = 0;
        continue;
      }
      changed_.wait_for(guard, kTick);
      if (!process_) continue;
      const std::uint64_t now = run_->exits.load(std::memory_order_relaxed);
      quiet = now == seen ? quiet + 1 : 0;
      seen = now;
      if (quiet < 2) continue;
      quiet = 0;
      siginfo_t info{};
      info.si_signo = kWakeSignal;
      info.si_code = SI_KERNEL;
      if (++wakes_ > kMostWakes) process_->end({vmm::Ending::Kind::TimedOut, 0, "it waits"});
      else (void)vmm::send_to_process(*process_, info);
    }
  }
  std::mutex lock_;  // guards what follows
  std::condition_variable changed_;
  vmm::Process* process_ = nullptr;
  const Run* run_ = nullptr;
  unsigned wakes_ = 0;
  bool stop_ = false;
  std::thread thread_;
};

void run_guest(Run& run, const Directory& directory, Waker& waker) {
  auto shell = make_script_shell(run);
  auto files = vmm::Files::create({{directory.root() + "/w", "/w", true}, {directory.root() + "/r", "/r", false}});
  if (!shell || !files) finding("no guest could be made");
  {
    vmm::Family family(**shell, kFirstId);
    auto image = std::make_shared<vmm::Image>(std::shared_ptr<vmm::Shell>(shell->get(), [](vmm::Shell*) {}));
    auto process = std::make_shared<vmm::Process>(family, kFirstId, std::move(image), std::move(*files));
    if (!family.add(process, 0, SIGCHLD, vmm::Limits::kProcesses)) finding("no room for the first process");
    process->image()->executable = "/w/prog";
    process->image()->arguments = {"prog"};
    static const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    process->files.attach_stdio(null, null, null);
    process->files.add_scratch();
    auto thread = process->make_thread(kFirstId);
    if (!thread) finding("no vCPU");
    std::vector<std::unique_ptr<vmm::Thread>> threads;
    threads.push_back(std::move(*thread));
    begin_script(run);
    waker.watch(process.get(), &run);
    process->run(std::move(threads));
    test::scarce::allocations_left = -1;
    waker.watch(nullptr, nullptr);
    family.end_all();
    process->finish();
  }
  run.layers.clear();
}

int one_input(std::span<const std::uint8_t> input) {
  static Directory directory;
  static Waker waker;
  static const bool once = [] {
    // A file of a size that the guest chooses must not fill the host, and what goes beyond is an error.
    const rlimit most{1u << 30, 1u << 30};
    ::setrlimit(RLIMIT_FSIZE, &most);
    ::signal(SIGXFSZ, SIG_IGN);
    // Threads of guests block it once they need to; vmm::run() puts that right for its caller.
    sigset_t pipe;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
    Run run;
    directory.fill(0);
    run_guest(run, directory, waker);  // what is made once and stays: the kick signal's handler and the like
    directory.check();
    return true;
  }();
  static_cast<void>(once);
  const Host before = Host::now();
  test::scarce::failed = false;
  Run run{.input = input, .exits = {}, .lock = {}, .layers = {}};
  directory.fill(input.empty() ? 0 : input.back());
  run_guest(run, directory, waker);
  directory.check();
  Host::now().compare(before);
  return 0;
}

}  // namespace
}  // namespace ramet::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return ramet::fuzz::one_input({data, size});
}
