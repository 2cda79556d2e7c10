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
// As Linux writes lists of them: "0-3,5"; without any: those.
std::string cpu_list(std::span<const int>);
std::string cpu_list();

// A region as a line of /proc/<pid>/maps, without the end of line.
std::string maps_line(const mm::Region&);

// Regions are many, and paths of files long: no more text than this at a time.
inline constexpr std::size_t kMostMaps = 32 << 20;

// A file of /proc/<pid>, by its name there, as thread tid sees it. Errors: ENOENT.
OrErrno<std::string> process_content(const ProcContext&, std::string_view name, int tid);
// A file that is the same for every process, by its path. Errors: ENOENT.
OrErrno<std::string> system_content(const ProcContext&, std::string_view path);

}  // namespace ramet::vmm
