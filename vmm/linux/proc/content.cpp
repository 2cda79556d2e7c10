// What the files of /proc and /sys contain, in the words of proc(5).
#include "vmm/linux/proc/content.hpp"

#include <fmt/format.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/proc/attributes.hpp"
#include "vmm/linux/proc/memory.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {
namespace {

constexpr std::uint64_t kUserHz = 100;

OrErrno<std::string> maps(const mm::AddressSpace& memory) {
  std::string out;
  memory.visit_regions([&](const mm::Region& r) {
    if (out.size() <= kMostMaps) out += maps_line(r) + "\n";
  });
  if (out.size() > kMostMaps) return err(ENOMEM);
  return out;
}

struct Sizes {
  std::uint64_t total = 0, stack = 0, text = 0, data = 0, locked = 0, resident = 0, shared = 0, peak = 0,
                tables = 0;  // bytes
};
Sizes sizes(const mm::AddressSpace& memory) {
  Sizes s;
  memory.visit_regions([&](const mm::Region& r) {
    s.total += r.length();
    if (r.locked) s.locked += r.length();
    if (r.name == "[stack]") s.stack += r.length();
    else if (has(r.prot, mm::Prot::Exec)) s.text += r.length();
    else if (has(r.prot, mm::Prot::Write)) s.data += r.length();
  });
  mm::Usage u = memory.usage();
  s.shared = u.shared_pages * mm::kPageSize;
  s.resident = u.data_bytes() + s.shared;
  s.peak = std::max(u.peak_bytes, s.resident);
  s.tables = u.table_pages * mm::kPageSize;
  return s;
}

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& w : words) out.append(w).push_back('\0');
  return out;
}

std::string name_of(const ProcContext& c, int tid) {
  LockGuard guard(c.process->threads_lock);
  Thread* thread = c.process->find_thread(tid);
  std::string name = thread ? thread->name() : "";
  if (auto image = name.empty() ? c.process->image() : nullptr)
    name = image->executable.substr(image->executable.rfind('/') + 1);
  return name.substr(0, 15);
}

// A name that the guest chose as status shows it: in one line.
std::string in_one_line(std::string_view name) {
  std::string out;
  for (const char c : name) out += c == '\n' ? "\\n" : c == '\\' ? "\\\\" : std::string(1, c);
  return out;
}

std::size_t thread_count(const ProcContext& c) {
  LockGuard guard(c.process->threads_lock);
  return std::max<std::size_t>(c.process->threads.size(), 1);
}

// The state letter of proc(5): threads of a process that runs may wait.
char state_of(const ProcContext& c, int tid, const Family::Relations& r) {
  if (r.state != 'R') return r.state;
  LockGuard guard(c.process->threads_lock);
  const Thread* thread = c.process->find_thread(tid);
  return thread && thread->waiting() ? 'S' : 'R';
}

std::string_view describe_state(char state) {
  switch (state) {
    case 'S': return "S (sleeping)";
    case 'T': return "T (stopped)";
    default: return "R (running)";
  }
}

// Processor time in clock ticks; the host's system time is what the VMM did for the guest.
struct Ticks {
  std::uint64_t user, system;
};
Ticks ticks(const rusage& usage) {
  auto of = [](const timeval& t) {
    return static_cast<std::uint64_t>(t.tv_sec) * kUserHz + static_cast<std::uint64_t>(t.tv_usec) / 10000;
  };
  return {of(usage.ru_utime), of(usage.ru_stime)};
}

std::string stat(const ProcContext& c, const Image& image, int tid) {
  Process& p = *c.process;
  Sizes s = sizes(image.memory());
  Ticks t = ticks(p.usage());
  int nice = 0;
  Scheduling scheduling;
  {
    LockGuard guard(p.threads_lock);
    if (Thread* thread = p.find_thread(tid)) {
      nice = thread->nice();
      scheduling = thread->scheduling;
      if (tid != p.pid) t = ticks(thread->usage());  // a file of the first one's own looks like the process's
    }
  }
  Family::Relations r = p.family.relations(p.pid).value_or(Family::Relations{});
  // 52 fields, as proc(5) numbers them from 1.
  return fmt::format(
      "{} ({}) {} {} {} {} 0 -1 4194304 0 0 0 0 {} {} 0 0 {} {} {} 0 1 {} {} 18446744073709551615 0 0 {} 0 0 0 0 0 0 0 0 0 17 0 {} {} "
      "0 0 0 0 0 {} 0 0 0 0 0\n",
      tid, name_of(c, tid), state_of(c, tid, r), r.parent ? r.parent : 1, r.group, r.session, t.user, t.system,
      real_time(scheduling.policy) ? -1 - scheduling.priority : 20 + nice, nice, thread_count(c), s.total,
      s.resident / mm::kPageSize, image.stack_top, scheduling.priority, scheduling.policy, image.brk_start);
}

std::string statm(const Image& image) {
  Sizes s = sizes(image.memory());
  auto pages = [](std::uint64_t bytes) { return bytes / mm::kPageSize; };
  return fmt::format("{} {} {} {} 0 {} 0\n", pages(s.total), pages(s.resident), pages(s.shared), pages(s.text),
                     pages(s.data + s.stack));
}

std::vector<int> processors_of(std::span<const std::byte> set) {
  std::vector<int> all;
  for (std::size_t i = 0; i < 8 * set.size(); ++i)
    if ((set[i / 8] >> (i % 8) & std::byte{1}) != std::byte{0}) all.push_back(static_cast<int>(i));
  return all;
}

// Words of 32 bits, the highest first: "f,ffffffff".
std::string cpu_mask(std::span<const int> cpus) {
  std::vector<std::uint32_t> words(1);
  for (const int cpu : cpus) {
    const auto n = static_cast<std::size_t>(cpu);
    if (words.size() <= n / 32) words.resize(n / 32 + 1);
    words[n / 32] |= 1u << n % 32;
  }
  std::string out = fmt::format("{:x}", words.back());
  for (std::size_t i = words.size() - 1; i-- > 0;) out += fmt::format(",{:08x}", words[i]);
  return out;
}

std::string status(const ProcContext& c, const Image& image, int tid) {
  Process& p = *c.process;
  Sizes s = sizes(image.memory());
  Family::Relations r = p.family.relations(p.pid).value_or(Family::Relations{});
  mode_t umask;
  {
    LockGuard guard(c.state.lock);
    umask = c.state.umask.value_or(c.state.host_umask());
  }
  auto kb = [](std::uint64_t bytes) { return bytes / 1024; };
  auto who = p.credentials();
  std::size_t queued = 0;
  SignalSet pending = 0, of_process = 0, blocked = 0, ignored = 0, caught = 0;
  std::vector<int> processors = processors_of(p.family.processors);
  rusage usage{};
  {
    LockGuard threads(p.threads_lock);
    LockGuard signals(p.signals.lock);
    if (Thread* thread = p.find_thread(tid)) {
      who = thread->credentials();
      if (!thread->affinity().empty()) processors = processors_of(thread->affinity());
      usage = thread->usage();
      pending = thread->signals.pending.set;
      blocked = thread->signals.blocked;
    }
    of_process = p.signals.pending.set;
    queued = queued_signals(p);
    for (int n = 1; n <= kSignals; ++n) {
      std::uint64_t handler = p.signals.actions[static_cast<std::size_t>(n - 1)].handler;
      if (handler == 1) ignored |= bit_of(n);
      if (handler > 1) caught |= bit_of(n);
    }
  }
  std::string groups;
  for (gid_t group : who->groups) groups += fmt::format("{} ", group);
  const Credentials::Ids &user = who->user, &group = who->group;
  return fmt::format(
      "Name:\t{}\nUmask:\t{:04o}\nState:\t{}\nTgid:\t{}\nNgid:\t0\nPid:\t{}\nPPid:\t{}\nTracerPid:\t0\n"
      "Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t256\nGroups:\t{}\n"
      "VmPeak:\t{:8} kB\nVmSize:\t{:8} kB\nVmLck:\t{:8} kB\nVmPin:\t       0 kB\nVmHWM:\t{:8} kB\nVmRSS:\t{:8} kB\n"
      "VmData:\t{:8} kB\nVmStk:\t{:8} kB\nVmExe:\t{:8} kB\nVmLib:\t       0 kB\nVmPTE:\t{:8} kB\nVmSwap:\t       0 kB\n"
      "Threads:\t{}\nSigQ:\t{}/{}\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n"
      "CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\n"
      "CapAmb:\t{:016x}\nNoNewPrivs:\t1\nSeccomp:\t0\nSeccomp_filters:\t0\n"
      "Cpus_allowed:\t{}\nCpus_allowed_list:\t{}\nMems_allowed:\t1\nMems_allowed_list:\t0\n"
      "voluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}\n",
      in_one_line(name_of(c, tid)), umask, describe_state(state_of(c, tid, r)), p.pid, tid, r.parent ? r.parent : 1,
      user.real, user.effective, user.saved, user.file, group.real, group.effective, group.saved, group.file, groups,
      kb(s.total), kb(s.total), kb(s.locked), kb(s.peak), kb(s.resident), kb(s.data), kb(s.stack), kb(s.text),
      kb(s.tables), thread_count(c), queued, p.limits.soft(RLIMIT_SIGPENDING), pending, of_process, blocked, ignored,
      caught, who->inheritable, who->permitted, who->effective, who->bounding, who->ambient, cpu_mask(processors),
      cpu_list(processors), usage.ru_nvcsw, usage.ru_nivcsw);
}

std::string mounts(const Files::State& state, bool info) {
  std::string out;
  int id = 1;
  auto add = [&](std::string_view where, std::string_view type, bool writable) {
    std::string_view mode = writable ? "rw" : "ro";
    if (info)
      out += fmt::format("{} {} 0:{} / {} {},relatime - {} {} {}\n", id + 20, 20, id + 20, where, mode, type, type,
                         mode);
    else out += fmt::format("{} {} {} {},relatime 0 0\n", type, where, type, mode);
    ++id;
  };
  if (state.mount_at("/") < 0) add("/", "tmpfs", false);
  for (const Mount& m : state.mounts) {
    std::string where;
    for (char ch : m.guest)
      where += std::strchr(" \t\n\\", ch) ? fmt::format("\\{:03o}", static_cast<unsigned char>(ch))
                                          : std::string(1, ch);
    add(where, "ramet", m.writable);
  }
  add("/proc", "proc", false);
  add("/sys", "sysfs", false);
  add("/dev", "devtmpfs", false);
  return out;
}

std::string meminfo(const ProcContext& c) {
  mm::Usage u{};
  if (auto image = c.process ? c.process->image() : nullptr) u = image->memory().usage();
  std::uint64_t used = u.data_bytes();
  std::uint64_t total = u.limit_bytes / 1024, free = (u.limit_bytes - std::min(used, u.limit_bytes)) / 1024;
  std::string out;
  auto line = [&](std::string_view name, std::uint64_t kb) {
    out += fmt::format("{:<15} {:8} kB\n", std::string(name) + ":", kb);
  };
  line("MemTotal", total);
  line("MemFree", free);
  line("MemAvailable", free);
  for (std::string_view name : {"Buffers", "Cached", "SwapCached"}) line(name, 0);
  line("Active", used / 1024);
  line("Inactive", 0);
  for (std::string_view name : {"SwapTotal", "SwapFree", "Dirty", "Writeback"}) line(name, 0);
  line("AnonPages", used / 1024);
  line("Mapped", u.shared_pages * mm::kPageSize / 1024);
  line("Shmem", 0);
  line("PageTables", u.table_pages * mm::kPageSize / 1024);
  line("CommitLimit", total);
  line("Committed_AS", used / 1024);
  line("AnonHugePages", u.data_blocks_2m * mm::kBlockSize / 1024);
  out += "HugePages_Total:       0\nHugePages_Free:        0\n";
  line("Hugepagesize", mm::kBlockSize / 1024);
  return out;
}

std::string cpuinfo(const ProcContext& c) {
  std::string out;
  const auto image = c.process ? c.process->image() : nullptr;
  if (!image) return out;
  const auto cpus = host_cpus();
  const Machine::Features& f = image->machine().features();
  for (std::size_t i = 0; i < cpus.size(); ++i)
    out += image->abi.cpuinfo({.number = static_cast<unsigned>(cpus[i]),
                               .position = static_cast<unsigned>(i),
                               .count = static_cast<unsigned>(cpus.size()),
                               .model = f.model_name,
                               .features = f.flags});
  return out;
}

std::string kernel_stat(const Clocks& clocks) {
  rusage all;
  Ticks t = getrusage(RUSAGE_SELF, &all) == 0 ? ticks(all) : Ticks{};
  std::string out = fmt::format("cpu  {} 0 {} 0 0 0 0 0 0 0\n", t.user, t.system);
  for (int cpu : host_cpus()) out += fmt::format("cpu{} {} 0 {} 0 0 0 0 0 0 0\n", cpu, t.user, t.system);
  const timespec up = clocks.now(CLOCK_BOOTTIME), now = host_now(CLOCK_REALTIME);
  return out + fmt::format("intr 0\nctxt 0\nbtime {}\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n",
                           now.tv_sec - up.tv_sec);
}

std::string uptime(const Clocks& clocks) {
  const timespec up = clocks.now(CLOCK_BOOTTIME);
  return fmt::format("{}.{:02} 0.00\n", up.tv_sec, up.tv_nsec / 10'000'000);
}

// A random UUID (RFC 4122, version 4).
std::string uuid_of(std::array<unsigned char, 16> b) {
  b[6] = static_cast<unsigned char>((b[6] & 0x0f) | 0x40);
  b[8] = static_cast<unsigned char>((b[8] & 0x3f) | 0x80);
  std::string out;
  for (std::size_t i = 0; i < sizeof b; ++i)
    out += fmt::format("{}{:02x}", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", b[i]);
  return out + "\n";
}

}  // namespace

std::string cpu_list() { return cpu_list(host_cpus()); }

std::string cpu_list(std::span<const int> cpus) {
  std::string out;
  for (std::size_t i = 0; i < cpus.size();) {
    std::size_t j = i;
    while (j + 1 < cpus.size() && cpus[j + 1] == cpus[j] + 1) ++j;
    if (!out.empty()) out += ',';
    out += j == i ? std::to_string(cpus[i]) : fmt::format("{}-{}", cpus[i], cpus[j]);
    i = j + 1;
  }
  return out;
}

std::string maps_line(const mm::Region& r) {
  mm::Backing::Identity id;
  if (r.backing) id = r.backing->identity();
  std::string line = fmt::format("{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ", r.start, r.end,
                                 has(r.prot, mm::Prot::Read) ? 'r' : '-', has(r.prot, mm::Prot::Write) ? 'w' : '-',
                                 has(r.prot, mm::Prot::Exec) ? 'x' : '-', r.shared ? 's' : 'p',
                                 r.backing ? r.offset : 0, id.major, id.minor, id.inode);
  const std::string& name = r.backing && !id.path.empty() ? id.path : r.name;
  if (!name.empty()) {
    // Linux pads to column 73 on 64-bit machines.
    if (line.size() < 72) line.append(72 - line.size(), ' ');
    line += ' ';
    for (char c : name) line += c == '\n' ? std::string("\\012") : std::string(1, c);
  }
  return line;
}

OrErrno<std::string> process_content(const ProcContext& c, std::string_view name, int tid) {
  auto image = c.process->image();
  if (!image) return err(ENOENT);  // it has ended
  if (name == "maps") return maps(image->memory());
  if (name == "cmdline") return joined(image->arguments);
  if (name == "environ") return joined(image->environment);
  if (name == "auxv") {
    std::string out;
    for (const auto& [key, value] : image->auxv) {
      out.append(reinterpret_cast<const char*>(&key), sizeof key);
      out.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    return out;
  }
  if (name == "stat") return stat(c, *image, tid);
  if (name == "statm") return statm(*image);
  if (name == "status") return status(c, *image, tid);
  if (name == "comm") return name_of(c, tid) + "\n";
  if (name == "cgroup") return std::string("0::/\n");
  if (name == "mounts" || name == "mountinfo") return mounts(c.state, name == "mountinfo");
  if (name == "smaps") return smaps(image->memory());
  if (name == "smaps_rollup") return smaps_rollup(image->memory());
  return attribute_content(c, *image, name, tid);
}

OrErrno<std::string> system_content(const ProcContext& c, std::string_view path) {
  if (path == "/proc/meminfo") return meminfo(c);
  if (path == "/proc/cpuinfo") return cpuinfo(c);
  if (path == "/proc/stat") return kernel_stat(c.process->family.clocks);
  if (path == "/proc/uptime") return uptime(c.process->family.clocks);
  if (path == "/proc/loadavg") return std::string("0.00 0.00 0.00 1/1 1\n");
  if (path == "/proc/sysvipc/shm") return list_segments(c.process->family);
  if (path == "/proc/ramet/generation") return fmt::format("{}\n", c.process->family.generation);
  if (path == "/proc/version") return fmt::format("Linux version {} (ramet) {}\n", kKernelRelease, kKernelVersion);
  if (path == "/proc/filesystems") return std::string("nodev\tproc\nnodev\tsysfs\nnodev\tdevtmpfs\nnodev\ttmpfs\n");
  if (path == "/proc/sys/kernel/osrelease") return std::string(kKernelRelease) + "\n";
  if (path == "/proc/sys/kernel/ostype") return std::string("Linux\n");
  if (path == "/proc/sys/kernel/pid_max") return std::string("4194304\n");
  if (path == "/proc/sys/kernel/random/boot_id") return uuid_of(c.process->family.boot_id);
  if (path == "/proc/sys/kernel/random/uuid") {
    std::array<unsigned char, 16> random;
    if (::getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size())) return err(EIO);
    return uuid_of(random);
  }
  if (path == "/proc/sys/vm/overcommit_memory") return std::string("0\n");
  if (path == "/proc/sys/vm/max_map_count") return std::string("65530\n");
  if (path == "/proc/sys/vm/mmap_min_addr") return std::string("65536\n");
  if (path.starts_with("/sys/devices/system/cpu/")) return cpu_list() + "\n";
  if (path == "/sys/kernel/mm/transparent_hugepage/enabled") return std::string("[always] madvise never\n");
  if (path == "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size") return std::to_string(mm::kBlockSize) + "\n";
  return err(ENOENT);
}

}  // namespace ramet::vmm
