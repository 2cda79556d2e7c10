// What the files of /proc and /sys contain.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "guest-mm/region.hpp"
#include "vmm/linux/files/synthetic.hpp"

namespace ramet::vmm {

// CPUs the VMM may run on, by the host's numbers; never empty.
std::vector<int> host_cpus();
// A list as Linux writes it: "0-3,5". Without an argument: of host_cpus().
std::string cpu_list(std::span<const int>);
std::string cpu_list();

// A region as a line of /proc/<pid>/maps, without the end of line.
std::string maps_line(const mm::Region&);

// The most bytes of maps or smaps: a guest chooses how many regions there are, and how long their paths.
inline constexpr std::size_t kMostMaps = 32 << 20;

// The content of a file of /proc/<pid>, by its name there, for thread tid. Errors: ENOENT; ENOMEM past kMostMaps.
OrErrno<std::string> process_content(const ProcContext&, std::string_view name, int tid);
// The content of a file that is the same for every process, by its path. Errors: ENOENT, EIO.
OrErrno<std::string> system_content(const ProcContext&, std::string_view path);

}  // namespace ramet::vmm
