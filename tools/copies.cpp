#include "tools/copies.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <string>
#include <system_error>
#include <thread>

#include "guest-mm/thread_annotations.hpp"
#include "tools/commands.hpp"
#include "tools/run_options.hpp"

namespace ramet::tools {
namespace {

using vmm::HostFd;

// Copies all from the one's offset on to the other's. False: errno says why.
bool pour(int from, int to) {
  std::array<char, 1 << 16> buffer;
  for (;;) {
    const ssize_t n = ::read(from, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n == 0;
    for (ssize_t done = 0; done < n;) {
      const ssize_t written = ::write(to, buffer.data() + done, static_cast<std::size_t>(n - done));
      if (written < 0 && errno != EINTR) return false;
      if (written > 0) done += written;
    }
  }
}

HostFd memory_file() { return HostFd(::memfd_create("ramet", MFD_CLOEXEC)); }

struct Copy {
  HostFd out, err;
  int status = 0;
  std::string message;   // for people, after what it wrote
  bool done = false;
};

using Restore = std::function<std::expected<Restored, vmm::Failure>()>;

// Runs a copy to its end; returns its exit status. `input`: a path of the host.
std::expected<int, vmm::Failure> run_copy(unsigned number, Copy& copy, const std::string& input,
                                          const vmm::RunOptions& options, const Restore& restore) {
  copy.out = memory_file(), copy.err = memory_file();
  const HostFd its_input(::open(input.c_str(), O_RDONLY | O_CLOEXEC));  // another description: it reads from the start
  if (!copy.out || !copy.err || !its_input)
    return vmm::failure(fmt::format("no room for a copy's output: {}", std::strerror(errno)));
  auto restored = restore();
  if (!restored) return std::unexpected(restored.error());
  vmm::RunOptions run = options;
  run.standard = {its_input.get(), copy.out.get(), copy.err.get()};
  run.copy = number;
  const auto report = vmm::run(*restored->shell, run);
  if (!report) return std::unexpected(report.error());
  copy.message = report->ending.message;
  return report->ending.status();
}

}  // namespace

std::expected<int, vmm::Failure> run_copies(unsigned copies, unsigned jobs, const vmm::RunOptions& options,
                                            const std::function<std::expected<Restored, vmm::Failure>()>& restore) try {
  ::signal(SIGPIPE, SIG_IGN);  // whatever copy ends first
  const HostFd input = memory_file();
  if (!input || !pour(0, input.get()))
    return vmm::failure(fmt::format("cannot read the input: {}", std::strerror(errno)));
  const std::string input_path = fmt::format("/proc/self/fd/{}", input.get());
  Mutex lock;  // guards what follows
  std::condition_variable changed;
  std::vector<Copy> all(copies);
  unsigned next = 0;

  const auto work = [&] {
    for (;;) {
      unsigned n;
      {
        LockGuard guard(lock);
        if (next == copies) return;
        n = next++;
      }
      const auto status = run_copy(n + 1, all[n], input_path, options, restore);
      LockGuard guard(lock);
      all[n].status = status ? *status : status.error().status;
      if (!status) all[n].message = status.error().message;
      all[n].done = true;
      changed.notify_one();
    }
  };
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < std::min(copies, jobs); ++i) threads.emplace_back(work);
  int result = 0;
  for (Copy& copy : all) {
    {
      UniqueLock guard(lock);
      changed.wait(guard.standard(), [&] { return copy.done; });
    }
    for (auto [from, to] : {std::pair(copy.out.get(), 1), std::pair(copy.err.get(), 2)}) {
      if (from >= 0) ::lseek(from, 0, SEEK_SET);
      if (from < 0 || pour(from, to) || errno == EPIPE) continue;
      LockGuard guard(lock);
      next = copies;  // no more of them
      return vmm::failure(fmt::format("cannot write the output: {}", std::strerror(errno)));
    }
    if (!copy.message.empty()) refuse({.message = copy.message});
    copy.out = HostFd(), copy.err = HostFd();
    if (result == 0) result = copy.status;
  }
  return result;
} catch (const std::system_error& e) {
  return vmm::failure(fmt::format("the host cannot start threads for the copies: {}", e.what()));
}

}  // namespace ramet::tools
