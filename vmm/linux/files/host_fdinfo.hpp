// What the host's kernel tells of a descriptor in /proc/self/fdinfo.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ramet::vmm {

// The lines that begin with `prefix`, without it. Empty also where the host has no such file.
std::vector<std::string> host_fdinfo(int host, std::string_view prefix);

}  // namespace ramet::vmm
