#include "vmm/host_features.hpp"

#include <utility>

#include "arch/host_processor.hpp"

namespace ramet::vmm {
namespace {

Machine::Features look() {
  auto host = arch::host_processor();
  Machine::Features f;
  f.hwcap = host.hwcap;
  f.hwcap2 = host.hwcap2;
  f.fp = host.fp;
  f.model_name = std::move(host.model);
  f.flags = std::move(host.features);
  f.physical_bits = 46;
  // Nobody sets accessed and dirty bits while guest code runs: entries have them from the start.
  f.dear_accessed_dirty = true;
  return f;
}

}  // namespace

const Machine::Features& host_features() {
  static const Machine::Features features = look();
  return features;
}

}  // namespace ramet::vmm
