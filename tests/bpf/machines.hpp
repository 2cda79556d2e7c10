// The machines that tests of eBPF guests run on.
#pragma once

#include <string>
#include <vector>

#include "tests/vmm/need_kvm.hpp"
#include "vmm/make_machine.hpp"
#ifdef RAMET_SOFT
#include "vmm/soft/provide.hpp"
#endif

namespace ramet::vmm::bpf {

inline std::vector<MachineChoice::Kind> machines() {
#ifdef RAMET_SOFT
  provide_soft_engines();
  return {MachineChoice::Kind::Soft};
#else
  return {MachineChoice::Kind::Kvm, MachineChoice::Kind::Process};
#endif
}

inline std::string name_of_kind(MachineChoice::Kind kind) {
  return kind == MachineChoice::Kind::Kvm ? "Kvm" : kind == MachineChoice::Kind::Process ? "Process" : "Soft";
}

}  // namespace ramet::vmm::bpf
