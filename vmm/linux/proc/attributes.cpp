#include "vmm/linux/proc/attributes.hpp"

#include <fmt/format.h>
#include <linux/capability.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {
namespace {

std::string limits(Limits& of) {
  struct Line {
    std::string_view name, unit;
  };
  static constexpr std::array<Line, RLIM_NLIMITS> kLines{{
      {"Max cpu time", "seconds"},
      {"Max file size", "bytes"},
      {"Max data size", "bytes"},
      {"Max stack size", "bytes"},
      {"Max core file size", "bytes"},
      {"Max resident set", "bytes"},
      {"Max processes", "processes"},
      {"Max open files", "files"},
      {"Max locked memory", "bytes"},
      {"Max address space", "bytes"},
      {"Max file locks", "locks"},
      {"Max pending signals", "signals"},
      {"Max msgqueue size", "bytes"},
      {"Max nice priority", ""},
      {"Max realtime priority", ""},
      {"Max realtime timeout", "us"},
  }};
  const auto told = [](rlim64_t value) {
    return value == RLIM64_INFINITY ? std::string("unlimited") : std::to_string(value);
  };
  std::string out = fmt::format("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
  LockGuard guard(of.lock);
  for (std::size_t i = 0; i < kLines.size(); ++i) {
    out += fmt::format("{:<25} {:<20} {:<20} ", kLines[i].name, told(of.value[i].rlim_cur), told(of.value[i].rlim_max));
    if (!kLines[i].unit.empty()) out += fmt::format("{:<10}", kLines[i].unit);
    out += '\n';
  }
  return out;
}

std::string io(const Process::Transferred& t) {
  const auto get = [](const std::atomic<std::uint64_t>& n) { return n.load(std::memory_order_relaxed); };
  return fmt::format(
      "rchar: {}\nwchar: {}\nsyscr: {}\nsyscw: {}\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n",
      get(t.read_bytes), get(t.written_bytes), get(t.reads), get(t.writes));
}

// The file of a descriptor in fdinfo. Errors: ENOENT.
OrErrno<std::string> descriptor(const Files::State& state, std::string_view number) {
  int fd = 0;
  std::from_chars(number.data(), number.data() + number.size(), fd);  // proc_lookup() has found it
  const auto file = state.descriptors.get(fd);
  if (!file) return err(ENOENT);
  const int host = file->host.get();
  const off_t at = ::lseek(host, 0, SEEK_CUR);  // what has no offset has 0
  const int status = ::fcntl(host, F_GETFL);
  struct stat st{};
  if (status < 0 || ::fstat(host, &st) != 0) return err(ENOENT);
  const int flags = (status & ~O_ACCMODE) | (file->flags & (O_ACCMODE | O_PATH)) |
                    (state.descriptors.close_on_exec(fd).value_or(false) ? O_CLOEXEC : 0);
  // The ids of mountinfo, see mounts() in content.cpp; 9 stands for files that lie in no mount.
  const int mount = file->mount < 0 ? 9 : 21 + file->mount + (state.mount_at("/") < 0 ? 1 : 0);
  return fmt::format("pos:\t{}\nflags:\t0{:o}\nmnt_id:\t{}\nino:\t{}\n", at < 0 ? 0 : at, flags, mount, st.st_ino);
}

std::string_view network(std::string_view name) {
  constexpr std::string_view kTransport =
      "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
  if (name == "dev")
    return "Inter-|   Receive                                                |  Transmit\n"
           " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";
  if (name == "route") return "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
  if (name == "unix") return "Num       RefCount Protocol Flags    Type St Inode Path\n";
  return kTransport;  // tcp, udp and their like: there is no network
}

std::string oom_score(Process& process, const Image& image) {
  const mm::Usage u = image.memory().usage();
  const std::uint64_t used = u.data_bytes();
  const auto thousandths = static_cast<std::int64_t>(u.limit_bytes ? used * 1000 / u.limit_bytes : 0);
  return fmt::format("{}\n",
                     std::clamp<std::int64_t>(thousandths + process.oom.adjustment.load(std::memory_order_relaxed), 0,
                                              2000));
}

std::int64_t write_name(Thread& thread, const ProcPlace& place, std::string_view text) {
  if (place.process.get() != &thread.process) return -EINVAL;
  LockGuard guard(thread.process.threads_lock);
  Thread* const named = thread.process.find_thread(place.tid);
  if (!named) return -ESRCH;
  named->set_name(std::string(text.substr(0, std::min<std::size_t>(text.find('\0'), 15))));
  return 0;
}

std::int64_t write_oom_adjustment(Thread& thread, Process& process, std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  while (text.starts_with(' ')) text.remove_prefix(1);
  int value = 0;
  const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (bad != std::errc() || end != text.data() + text.size() || value < -kMostOomAdjustment ||
      value > kMostOomAdjustment)
    return -EINVAL;
  auto& oom = process.oom;
  const bool privileged = thread.credentials()->may(CAP_SYS_RESOURCE);
  if (value < oom.least.load(std::memory_order_relaxed) && !privileged) return -EACCES;
  if (privileged) oom.least.store(value, std::memory_order_relaxed);
  oom.adjustment.store(value, std::memory_order_relaxed);
  return 0;
}

}  // namespace

OrErrno<std::string> attribute_content(const ProcContext& c, const Image& image, std::string_view name, int tid) {
  if (name == "limits") return limits(c.process->limits);
  if (name == "io") return io(c.process->transferred);
  if (name.starts_with("fdinfo/")) return descriptor(c.state, name.substr(7));
  if (name.starts_with("net/")) return std::string(network(name.substr(4)));
  if (name == "oom_score") return oom_score(*c.process, image);
  if (name == "oom_score_adj") return fmt::format("{}\n", c.process->oom.adjustment.load(std::memory_order_relaxed));
  if (name == "mem" || name == "pagemap" || name == "clear_refs") return std::string();  // see read_process_memory()
  if (name == "coredump_filter") return std::string("00000033\n");
  if (name == "loginuid" || name == "sessionid") return std::string("4294967295");  // nobody has logged in
  if (name == "personality") return std::string("00000000\n");
  if (name == "timerslack_ns") return std::string("50000\n");
  if (name == "wchan") return std::string("0");
  if (name == "uid_map" || name == "gid_map") return std::string("         0          0 4294967295\n");
  if (name == "setgroups") return std::string("allow\n");
  if (name == "schedstat") {
    LockGuard guard(c.process->threads_lock);
    Thread* const thread = c.process->find_thread(tid);
    return fmt::format("{} 0 0\n", thread ? thread->processor_time().count() : 0);
  }
  return err(ENOENT);
}

std::int64_t write_attribute(Thread& thread, const OpenFile& file, const UserBuffers& buffers) {
  constexpr std::uint64_t kMostText = 64;
  const auto place = proc_place({state_of(thread), &thread.process, thread.tid}, file.path);
  if (!place) return -ESRCH;
  const std::uint64_t length = std::min(buffers.bytes(), kMostText);
  std::array<std::byte, kMostText> bytes{};
  if (auto got = buffers.get(std::span(bytes).first(length)); !got) return -got.error();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), length);
  std::int64_t bad = -EINVAL;
  if (place->rest == "comm") bad = write_name(thread, *place, text);
  if (place->rest == "oom_score_adj") bad = write_oom_adjustment(thread, *place->process, text);
  if (place->rest == "clear_refs") bad = 0;  // nobody counts references
  return bad ? bad : static_cast<std::int64_t>(buffers.bytes());
}

}  // namespace ramet::vmm
