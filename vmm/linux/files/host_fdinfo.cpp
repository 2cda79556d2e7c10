#include "vmm/linux/files/host_fdinfo.hpp"

#include <fstream>

namespace ramet::vmm {

std::vector<std::string> host_fdinfo(int host, std::string_view prefix) {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(host));
  std::vector<std::string> found;
  for (std::string line; std::getline(info, line);)
    if (line.starts_with(prefix)) found.push_back(line.substr(prefix.size()));
  return found;
}

}  // namespace ramet::vmm
