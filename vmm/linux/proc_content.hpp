// What the files of /proc and /sys contain.
#pragma once

#include <string>
#include <string_view>

#include "guest-mm/region.hpp"
#include "vmm/linux/proc.hpp"

namespace ramet::vmm {

// CPUs the VMM may run on, by the host's numbers; never empty.
std::vector<int> host_cpus();
// The same as Linux writes lists of them: "0-3,5".
std::string cpu_list();

// A region as a line of /proc/<pid>/maps, without the end of line.
std::string maps_line(const mm::Region&);

// A file of /proc/<pid>, by its name there, as thread tid sees it. Errors: ENOENT.
OrErrno<std::string> process_content(const ProcContext&, std::string_view name, int tid);
// A file that is the same for every process, by its path. Errors: ENOENT.
OrErrno<std::string> system_content(const ProcContext&, std::string_view path);

}  // namespace ramet::vmm
