// /proc, /sys and /dev: which files there are. What they contain is in proc/content.cpp.
#include "vmm/linux/files/synthetic.hpp"

#include <dirent.h>
#include <sched.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <functional>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/proc/attributes.hpp"
#include "vmm/linux/proc/content.hpp"
#include "vmm/linux/proc/generation.hpp"
#include "vmm/linux/proc/memory.hpp"
#include "vmm/linux/proc/system_files.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/uring/gup_test.hpp"

namespace ramet::vmm {
namespace {

using Type = ProcEntry::Type;

struct Fixed {
  std::string_view path;
  Type type;
  std::string_view target = {};  // Link: the text; Device: the host's node
  unsigned minor = 0;
  mode_t mode = 0444;
  decltype(ProcEntry::open) open = nullptr;
};

// Everything that does not depend on the process. Parents stand before their children.
constexpr Fixed kFixed[] = {
    {"/proc", Type::Directory},
    {"/proc/meminfo", Type::File},
    {"/proc/cpuinfo", Type::File},
    {"/proc/stat", Type::File},
    {"/proc/uptime", Type::File},
    {"/proc/loadavg", Type::File},
    {"/proc/version", Type::File},
    {"/proc/filesystems", Type::File},
    {"/proc/mounts", Type::Link, "self/mounts"},
    {"/proc/net", Type::Link, "self/net"},
    {"/proc/ramet", Type::Directory},
    {"/proc/ramet/generation", Type::File},
    {"/proc/sysvipc", Type::Directory},
    {"/proc/sysvipc/shm", Type::File},
    {"/proc/sys", Type::Directory},
    {"/proc/sys/kernel", Type::Directory},
    {"/proc/sys/kernel/osrelease", Type::File},
    {"/proc/sys/kernel/ostype", Type::File},
    {"/proc/sys/kernel/pid_max", Type::File},
    {"/proc/sys/kernel/random", Type::Directory},
    {"/proc/sys/kernel/random/boot_id", Type::File},
    {"/proc/sys/kernel/random/uuid", Type::File},
    {"/proc/sys/vm", Type::Directory},
    {"/proc/sys/vm/overcommit_memory", Type::File},
    {"/proc/sys/vm/max_map_count", Type::File},
    {"/proc/sys/vm/mmap_min_addr", Type::File},
    {"/sys", Type::Directory},
    {"/sys/devices", Type::Directory},
    {"/sys/devices/system", Type::Directory},
    {"/sys/devices/system/cpu", Type::Directory},
    {"/sys/devices/system/cpu/online", Type::File},
    {"/sys/devices/system/cpu/possible", Type::File},
    {"/sys/devices/system/cpu/present", Type::File},
    {"/sys/kernel", Type::Directory},
    {"/sys/kernel/debug", Type::Directory},
    {kGupTestPath, Type::File, {}, 0, 0600, open_gup_test},
    {"/sys/kernel/mm", Type::Directory},
    {"/sys/kernel/mm/transparent_hugepage", Type::Directory},
    {"/sys/kernel/mm/transparent_hugepage/enabled", Type::File},
    {"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", Type::File},
    {"/dev", Type::Directory},
    {"/dev/null", Type::Device, "/dev/null", 3, 0666},
    {"/dev/zero", Type::Device, "/dev/zero", 5, 0666},
    {"/dev/full", Type::Device, "/dev/full", 7, 0666},
    {"/dev/random", Type::Device, "/dev/random", 8, 0666},
    {"/dev/urandom", Type::Device, "/dev/urandom", 9, 0666},
    {kGenerationDevice, Type::Device, {}, 64, 0444, open_generation},
    {"/dev/fd", Type::Link, "/proc/self/fd"},
    {"/dev/stdin", Type::Link, "/proc/self/fd/0"},
    {"/dev/stdout", Type::Link, "/proc/self/fd/1"},
    {"/dev/stderr", Type::Link, "/proc/self/fd/2"},
    {"/dev/pts", Type::Directory},
};

// Below /proc/<pid> and /proc/<pid>/task/<tid>. Parents stand before their children.
constexpr Fixed kProcess[] = {
    {"maps", Type::File},
    {"smaps", Type::File},
    {"smaps_rollup", Type::File},
    {"cmdline", Type::File},
    {"environ", Type::File, {}, 0, 0400},
    {"stat", Type::File},
    {"statm", Type::File},
    {"status", Type::File},
    {"auxv", Type::File, {}, 0, 0400},
    {"comm", Type::File, {}, 0, 0644},
    {"cgroup", Type::File},
    {"mounts", Type::File},
    {"mountinfo", Type::File},
    {"limits", Type::File},
    {"io", Type::File, {}, 0, 0400},
    {"mem", Type::File, {}, 0, 0400},
    {"pagemap", Type::File, {}, 0, 0400},
    {"clear_refs", Type::File, {}, 0, 0200},
    {"coredump_filter", Type::File},
    {"oom_score", Type::File},
    {"oom_score_adj", Type::File, {}, 0, 0644},
    {"loginuid", Type::File},
    {"sessionid", Type::File},
    {"personality", Type::File, {}, 0, 0400},
    {"timerslack_ns", Type::File},
    {"schedstat", Type::File},
    {"wchan", Type::File},
    {"uid_map", Type::File},
    {"gid_map", Type::File},
    {"setgroups", Type::File},
    {"exe", Type::Executable},
    {"cwd", Type::Link},
    {"root", Type::Link, "/"},
    {"fd", Type::Directory},
    {"fdinfo", Type::Directory},
    // Linux's initial namespaces, which all processes share.
    {"ns", Type::Directory},
    {"ns/cgroup", Type::Link, "cgroup:[4026531835]"},
    {"ns/ipc", Type::Link, "ipc:[4026531839]"},
    {"ns/mnt", Type::Link, "mnt:[4026531841]"},
    {"ns/net", Type::Link, "net:[4026531840]"},
    {"ns/pid", Type::Link, "pid:[4026531836]"},
    {"ns/pid_for_children", Type::Link, "pid:[4026531836]"},
    {"ns/time", Type::Link, "time:[4026531834]"},
    {"ns/time_for_children", Type::Link, "time:[4026531834]"},
    {"ns/user", Type::Link, "user:[4026531837]"},
    {"ns/uts", Type::Link, "uts:[4026531838]"},
    {"net", Type::Directory},
    {"net/dev", Type::File},
    {"net/tcp", Type::File},
    {"net/tcp6", Type::File},
    {"net/udp", Type::File},
    {"net/udp6", Type::File},
    {"net/route", Type::File},
    {"net/unix", Type::File},
};

constexpr std::string_view kTerminal = "/dev/tty";

std::optional<int> number(std::string_view text) {
  int value = 0;
  auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (bad != std::errc() || end != text.data() + text.size() || value < 0) return {};
  if (text.size() > 1 && text[0] == '0') return {};
  return value;
}

std::string description(const Files::State& state, const OpenFile& file) {
  struct stat st;
  std::uint64_t ino = ::fstat(file.host.get(), &st) == 0 ? st.st_ino : 0;
  switch (file.kind) {
    case OpenFile::Kind::Pipe:
      if (file.path.empty()) return "pipe:[" + std::to_string(ino) + "]";
      break;
    case OpenFile::Kind::Socket: return "socket:[" + std::to_string(ino) + "]";
    case OpenFile::Kind::Event: return "anon_inode:[eventfd]";
    case OpenFile::Kind::Timer: return "anon_inode:[timerfd]";
    case OpenFile::Kind::Epoll: return "anon_inode:[eventpoll]";
    case OpenFile::Kind::Signal: return "anon_inode:[signalfd]";
    case OpenFile::Kind::Uring: return "anon_inode:[io_uring]";
    case OpenFile::Kind::Stdio:
      if (::isatty(file.host.get())) return "/dev/tty";
      return S_ISCHR(st.st_mode) ? "/dev/null" : "pipe:[" + std::to_string(ino) + "]";
    default: break;
  }
  return state.shown_path(file);
}

// The open file of "fd/3" or "fdinfo/3", if `rest` is one in `directory`; null: there is none.
std::shared_ptr<OpenFile> file_below(const ProcContext& c, std::string_view rest, std::string_view directory) {
  if (!rest.starts_with(directory)) return nullptr;
  auto fd = number(rest.substr(directory.size()));
  return fd ? c.state.get(*fd) : nullptr;
}

// Whether `rest` is where a link in ns/ leads to: a file beside the link, by the link's text.
bool is_namespace(std::string_view rest) {
  return rest.starts_with("ns/") && std::ranges::any_of(kProcess, [&](const Fixed& f) {
           return f.path.starts_with("ns/") && f.target == rest.substr(3);
         });
}

std::optional<ProcEntry> plain_entry_of_process(const ProcContext& c, const ProcPlace& where) {
  if (where.rest.empty()) return ProcEntry{.type = Type::Directory, .target = {}, .file = nullptr};
  if (where.rest == "task" && !where.task) return ProcEntry{.type = Type::Directory, .target = {}, .file = nullptr};
  if (is_namespace(where.rest)) return ProcEntry{.type = Type::File, .target = {}, .file = nullptr};
  if (file_below(c, where.rest, "fdinfo/")) return ProcEntry{.type = Type::File, .target = {}, .file = nullptr};
  if (where.rest.starts_with("fd/")) {
    auto file = file_below(c, where.rest, "fd/");
    if (!file) return {};
    return ProcEntry{.type = Type::OpenFile, .target = description(c.state, *file), .file = file};
  }
  for (const Fixed& f : kProcess) {
    if (f.path != where.rest) continue;
    ProcEntry e{.type = f.type, .target = std::string(f.target), .file = nullptr, .mode = f.mode};
    if (f.path == "exe") {
      auto image = c.process->image();
      if (!image) return {};
      e.target = image->file ? c.state.shown_path(*image->file) : image->executable;
      e.file = image->file;
    }
    if (f.path == "cwd") {
      auto cwd = c.state.current_path(c.state.node_of(c.state.working_directory()));
      e.target = cwd ? *cwd : c.state.working_directory()->path + " (deleted)";
    }
    return e;
  }
  return {};
}

std::optional<ProcEntry> entry_of_process(const ProcPlace& where) {
  auto entry = plain_entry_of_process(where.context(), where);
  if (!entry) return entry;
  const auto who = where.process->credentials();
  entry->user = who->user.effective, entry->group = who->group.effective;
  return entry;
}

unsigned char listing_type(Type type) {
  switch (type) {
    case Type::Directory: return DT_DIR;
    case Type::File: return DT_REG;
    case Type::Device: return DT_CHR;
    default: return DT_LNK;
  }
}

std::vector<ProcName> open_descriptors(const Files::State& state, unsigned char type) {
  std::vector<ProcName> names;
  for (const Descriptor& d : state.descriptors.list())
    names.push_back({std::to_string(d.number), type, static_cast<std::uint64_t>(d.number) + 3});
  return names;
}

std::vector<ProcName> tasks(Process& process) {
  std::vector<ProcName> names;
  LockGuard guard(process.threads_lock);
  for (const auto& thread : process.threads)
    names.push_back({std::to_string(thread->tid), DT_DIR, static_cast<std::uint64_t>(thread->tid) + 3});
  std::ranges::sort(names, {}, &ProcName::key);
  return names;
}

bool has_terminal() { return ::isatty(STDIN_FILENO); }

// "topology/core_id" of "/sys/devices/system/cpu/cpu5/topology/core_id" with the processor 5, if there is one.
struct OfProcessor {
  int cpu;
  std::string_view rest;
};
std::optional<OfProcessor> of_processor(std::string_view path) {
  constexpr std::string_view kPrefix = "/sys/devices/system/cpu/cpu";
  if (!path.starts_with(kPrefix)) return {};
  path.remove_prefix(kPrefix.size());
  const std::size_t digits = std::min(path.find('/'), path.size());
  auto n = number(path.substr(0, digits));
  auto cpus = host_cpus();
  if (!n || std::ranges::find(cpus, *n) == cpus.end()) return {};
  return OfProcessor{*n, path.substr(std::min(digits + 1, path.size()))};
}
constexpr std::string_view kTopologyFolder = "topology";

std::optional<ProcEntry> entry_of_processor(const OfProcessor& where) {
  if (where.rest.empty() || where.rest == kTopologyFolder)
    return ProcEntry{.type = Type::Directory, .target = {}, .file = nullptr};
  for (std::string_view name : topology_names())
    if (where.rest == join(kTopologyFolder, name)) return ProcEntry{.type = Type::File, .target = {}, .file = nullptr};
  return {};
}

}  // namespace

std::vector<int> host_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (::sched_getaffinity(0, sizeof set, &set) == 0)
    for (int i = 0; i < CPU_SETSIZE; ++i)
      if (CPU_ISSET(i, &set)) cpus.push_back(i);
  if (cpus.empty()) cpus.push_back(0);  // the host has more than CPU_SETSIZE
  return cpus;
}

ProcContext ProcPlace::context() const { return {process->files.state(), process.get(), tid}; }

std::optional<ProcPlace> proc_place(const ProcContext& c, std::string_view path) {
  if (!c.process || !path.starts_with("/proc/")) return {};
  path.remove_prefix(6);
  auto take = [&] {
    std::string_view part = path.substr(0, path.find('/'));
    path.remove_prefix(std::min(part.size() + 1, path.size()));
    return part;
  };
  Family& family = c.process->family;
  auto pid = number(take());
  auto process = pid ? family.find_by_any(*pid) : nullptr;
  if (!process && pid == 1) process = family.find(*(pid = family.first_id()));  // for programs that look for init
  if (!process) return {};
  if (!path.starts_with("task/")) return ProcPlace{path, *pid, false, std::move(process)};
  take();
  auto tid = number(take());
  if (!tid) return {};
  {
    LockGuard guard(process->threads_lock);
    if (!process->find_thread(*tid)) return {};
  }
  return ProcPlace{path, *tid, true, std::move(process)};
}

std::optional<ProcEntry> proc_lookup(const ProcContext& c, const std::string& path) {
  for (const Fixed& f : kFixed)
    if (f.path == path)
      return ProcEntry{.type = f.type,
                       .target = std::string(f.target),
                       .file = nullptr,
                       .minor = f.minor,
                       .open = f.open,
                       .mode = f.mode};
  if (path == kTerminal && has_terminal())
    return ProcEntry{.type = Type::Device, .target = std::string(kTerminal), .file = nullptr, .mode = 0666};
  for (const SystemFile& f : system_files())
    if (f.path == path)
      return ProcEntry{.type = f.directory ? Type::Directory : Type::File, .target = {}, .file = nullptr};
  if (auto processor = of_processor(path)) return entry_of_processor(*processor);
  if (c.process && path == "/proc/self")
    return ProcEntry{.type = Type::Link, .target = std::to_string(c.process->pid), .file = nullptr};
  if (c.process && path == "/proc/thread-self") {
    std::string pid = std::to_string(c.process->pid), tid = c.tid ? std::to_string(c.tid) : pid;
    return ProcEntry{.type = Type::Link, .target = pid + "/task/" + tid, .file = nullptr};
  }
  auto where = proc_place(c, path);
  return where ? entry_of_process(*where) : std::nullopt;
}

OrErrno<std::string> proc_content(const ProcContext& c, const std::string& path) {
  if (auto where = proc_place(c, path))
    return is_namespace(where->rest) ? std::string() : process_content(where->context(), where->rest, where->tid);
  for (const SystemFile& f : system_files())
    if (f.path == path) return std::string(f.content);
  if (auto processor = of_processor(path); processor && processor->rest.starts_with(kTopologyFolder)) {
    std::string all = cpu_list();
    return topology_content(processor->rest.substr(std::min(kTopologyFolder.size() + 1, processor->rest.size())),
                            processor->cpu, all);
  }
  return system_content(c, path);
}

std::vector<ProcName> proc_list(const ProcContext& c, const std::string& path) {
  auto where = proc_place(c, path);
  if (where && where->rest == "fd") return open_descriptors(where->process->files.state(), DT_LNK);
  if (where && where->rest == "fdinfo") return open_descriptors(where->process->files.state(), DT_REG);
  if (where && where->rest == "task") return tasks(*where->process);
  std::vector<ProcName> names;
  auto add = [&](std::string name, unsigned char type) { names.push_back({std::move(name), type, names.size() + 3}); };
  if (where) {
    const std::string below = where->rest.empty() ? "" : std::string(where->rest) + "/";
    for (const Fixed& f : kProcess)
      if (f.path.starts_with(below) && f.path.find('/', below.size()) == f.path.npos)
        add(std::string(f.path.substr(below.size())), listing_type(f.type));
    if (where->rest.empty() && !where->task) add("task", DT_DIR);
    return names;
  }
  std::string prefix = path == "/" ? "/" : path + "/";
  for (const Fixed& f : kFixed)
    if (f.path.starts_with(prefix) && f.path.find('/', prefix.size()) == f.path.npos)
      add(std::string(f.path.substr(prefix.size())), listing_type(f.type));
  for (const SystemFile& f : system_files())
    if (f.path.starts_with(prefix) && f.path.find('/', prefix.size()) == f.path.npos)
      add(std::string(f.path.substr(prefix.size())), f.directory ? DT_DIR : DT_REG);
  if (auto processor = of_processor(path)) {
    if (processor->rest.empty()) add(std::string(kTopologyFolder), DT_DIR);
    if (processor->rest == kTopologyFolder)
      for (std::string_view name : topology_names()) add(std::string(name), DT_REG);
  }
  if (path == "/dev" && has_terminal()) add("tty", DT_CHR);
  if (path == "/proc" && c.process) {
    add("self", DT_LNK);
    add("thread-self", DT_LNK);
    for (const auto& process : c.process->family.all())  // by rising pid
      names.push_back({std::to_string(process->pid), DT_DIR, static_cast<std::uint64_t>(process->pid) + 1000});
  }
  if (path == "/sys/devices/system/cpu")
    for (int cpu : host_cpus()) add("cpu" + std::to_string(cpu), DT_DIR);
  return names;
}

namespace {

class ProcFile : public FileOperations {
 public:
  std::optional<std::int64_t> read(Thread& thread, const OpenFile& file, const UserBuffers& to,
                                   std::int64_t offset) override {
    if (auto got = read_process_memory(thread, file, to, offset)) return got;
    const bool beginning = offset == kCurrentOffset ? ::lseek(file.host.get(), 0, SEEK_CUR) == 0 : offset == 0;
    if (beginning && to.bytes() > 0) refresh_synthetic(thread, file);
    return std::nullopt;
  }
  std::optional<std::int64_t> write(Thread& thread, const OpenFile& file, const UserBuffers& from,
                                    std::int64_t) override {
    return write_attribute(thread, file, from);
  }
};

}  // namespace

std::shared_ptr<FileOperations> proc_operations() {
  static const auto operations = std::make_shared<ProcFile>();
  return operations;
}

struct stat proc_stat(const std::string& path, const ProcEntry& entry) {
  struct stat st{};
  st.st_dev = makedev(0, path.starts_with("/proc") ? 21 : path.starts_with("/sys") ? 22 : 23);
  st.st_ino = std::hash<std::string>{}(path) | 1;
  if (const auto number = path.find(":[40265"); number != path.npos)
    st.st_ino = std::strtoul(path.c_str() + number + 2, nullptr, 10);
  st.st_nlink = entry.type == Type::Directory ? 2 : 1;
  st.st_uid = entry.user, st.st_gid = entry.group;
  st.st_blksize = 4096;
  switch (entry.type) {
    case Type::Directory: st.st_mode = S_IFDIR | 0555; break;
    case Type::File: st.st_mode = S_IFREG | entry.mode; break;
    case Type::Device:
      st.st_mode = S_IFCHR | entry.mode;
      st.st_rdev = entry.minor ? makedev(1, entry.minor) : makedev(5, 0);
      break;
    default:
      st.st_mode = S_IFLNK | 0777;
      st.st_size = static_cast<off_t>(entry.type == Type::Link ? entry.target.size() : 64);
  }
  if (path.starts_with("/sys") && entry.type == Type::File && !entry.open) st.st_size = 4096;
  st.st_atim = st.st_mtim = st.st_ctim = host_now(CLOCK_REALTIME);
  return st;
}

}  // namespace ramet::vmm
