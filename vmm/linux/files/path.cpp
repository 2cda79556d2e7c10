// The list of calls that take paths.
#include <vector>

#include "vmm/linux/files/state.hpp"

namespace ramet::vmm {

std::span<const Definition> path_calls() {
  static const std::vector<Definition> all = [] {
    std::vector<Definition> v;
    for (auto part : {stat_calls(), change_calls(), directory_calls()}) v.insert(v.end(), part.begin(), part.end());
    return v;
  }();
  return all;
}

}  // namespace ramet::vmm
