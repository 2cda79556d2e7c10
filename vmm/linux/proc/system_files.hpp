// Files of /proc and /sys that say the same to every process: settings of the kernel, and what it has of devices,
// networks and control groups. Each tells of the machine that a guest has, nothing of the host's.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "vmm/linux/files/files.hpp"

namespace ramet::vmm {

struct SystemFile {
  std::string_view path;
  std::string_view content = {};
  bool directory = false;
};

// Parents stand before their children, but for those that proc.cpp has.
std::span<const SystemFile> system_files();

// What is below /sys/devices/system/cpu/cpu<n>/topology: one processor a core, all in one package. Names as Linux has
// them.
std::span<const std::string_view> topology_names();
// `all`: the processors there are, as "0-3". Errors: ENOENT.
OrErrno<std::string> topology_content(std::string_view name, int cpu, std::string_view all);

}  // namespace ramet::vmm
