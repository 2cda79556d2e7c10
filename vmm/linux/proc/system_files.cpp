#include "vmm/linux/proc/system_files.hpp"

#include <algorithm>
#include <cerrno>

namespace ramet::vmm {
namespace {

constexpr SystemFile kFiles[] = {
    // Settings: what the calls of a guest do, and Linux's own default where nothing here depends on it.
    {"/proc/sys/kernel/hostname", "ramet\n"},  // as uname(2) has it
    {"/proc/sys/kernel/domainname", "(none)\n"},
    {"/proc/sys/kernel/version", "#1 SMP\n"},
    {"/proc/sys/kernel/random/entropy_avail", "256\n"},
    {"/proc/sys/kernel/random/poolsize", "256\n"},
    {"/proc/sys/kernel/cap_last_cap", "40\n"},
    {"/proc/sys/kernel/threads-max", "4096\n"},  // Family::kMaxThreads
    {"/proc/sys/kernel/core_pattern", "core\n"},
    {"/proc/sys/kernel/ngroups_max", "1024\n"},  // Credentials::kMostGroups
    {"/proc/sys/kernel/randomize_va_space", "2\n"},
    {"/proc/sys/kernel/shmmax", "18446744073692774399\n"},
    {"/proc/sys/kernel/shmall", "18446744073692774399\n"},
    {"/proc/sys/kernel/shmmni", "4096\n"},              // SysvMemory::kMaxSegments
    {"/proc/sys/kernel/sem", "0\t0\t0\t0\n"},           // there is no semget(2)
    {"/proc/sys/kernel/tainted", "0\n"},
    {"/proc/sys/fs", {}, true},
    {"/proc/sys/fs/file-max", "9223372036854775807\n"},
    {"/proc/sys/fs/nr_open", "4096\n"},                 // Limits::kOpenFiles
    {"/proc/sys/fs/pipe-max-size", "1048576\n"},
    {"/proc/sys/fs/aio-max-nr", "0\n"},                 // there is no io_setup(2)
    {"/proc/sys/fs/aio-nr", "0\n"},
    {"/proc/sys/fs/inotify", {}, true},                 // and no inotify_init(2)
    {"/proc/sys/fs/inotify/max_user_watches", "0\n"},
    {"/proc/sys/fs/inotify/max_user_instances", "0\n"},
    {"/proc/sys/net", {}, true},
    {"/proc/sys/net/core", {}, true},
    {"/proc/sys/net/core/somaxconn", "4096\n"},
    {"/proc/sys/vm/overcommit_ratio", "50\n"},
    {"/proc/sys/vm/swappiness", "60\n"},
    {"/proc/sys/vm/nr_hugepages", "0\n"},

    // There are no disks, no swap space, no hierarchies of control groups, and no network devices to be seen.
    {"/proc/sysvipc/msg",
     "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n"},
    {"/proc/sysvipc/sem", "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n"},
    {"/proc/vmstat",
     "pgpgin 0\npgpgout 0\npswpin 0\npswpout 0\npgfault 0\npgmajfault 0\n"},  // each process counts its own
    {"/proc/locks"},  // the host holds them, and tells who is in the way (F_GETLK), not who holds what
    {"/proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"},
    {"/proc/diskstats"},
    {"/proc/partitions", "major minor  #blocks  name\n\n"},
    {"/proc/devices", "Character devices:\n  1 mem\n  5 /dev/tty\n\nBlock devices:\n"},
    {"/proc/interrupts", "           \n"},
    {"/proc/cmdline", "\n"},
    {"/proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"},
    {"/sys/fs", {}, true},
    {"/sys/fs/cgroup", {}, true},
    {"/sys/class", {}, true},
    {"/sys/class/net", {}, true},
    {"/sys/block", {}, true},
    {"/sys/devices/system/node", {}, true},
    {"/sys/devices/system/node/online", "0-1\n"},
    {"/sys/devices/system/node/possible", "0-1\n"},
    {"/sys/kernel/mm/hugepages", {}, true},
    {"/sys/kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise [madvise] never\n"},
};

constexpr std::string_view kTopology[] = {"core_id",           "physical_package_id",
                                          "core_cpus_list",    "thread_siblings_list",
                                          "package_cpus_list", "core_siblings_list"};

}  // namespace

std::span<const SystemFile> system_files() { return kFiles; }
std::span<const std::string_view> topology_names() { return kTopology; }

OrErrno<std::string> topology_content(std::string_view name, int cpu, std::string_view all) {
  if (name == "physical_package_id") return std::string("0\n");
  if (name == "package_cpus_list" || name == "core_siblings_list") return std::string(all) + "\n";
  if (std::ranges::find(kTopology, name) == std::end(kTopology)) return err(ENOENT);
  return std::to_string(cpu) + "\n";
}

}  // namespace ramet::vmm
