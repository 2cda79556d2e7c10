// The host probe: what this host can do for guests, found out by trying, and what to do about what it lacks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ramet::vmm {

struct HostFacts {
  // KVM
  bool kvm = false;
  std::string kvm_problem;               // why not, and what to do; empty if kvm
  unsigned max_vcpus = 0, max_memslots = 0;
  bool syscall_enters_ring0 = false;     // by itself; else the machine serves the page fault at LSTAR
  bool ring3_native = false;  // no hardware virtualization: ring 3 on shadow tables, CPUID not intercepted
  bool sees_host_writes = false;  // KVM honours entries that the host takes away without being told
  bool flush_works = false;  // KVM honours them after the machine's strict flush
  // How guest programs get the time: by a system call; from the host's vDSO, which makes one; or from it without one.
  enum class Clock : std::uint8_t { Call, HostsCall, Read } clock = Clock::Call;
  bool memory_fault_info = false;  // KVM_RUN says which guest page it could not reach
  // a confined process of the host, which needs no KVM
  bool process = false;
  std::string process_problem;  // why not, and what to do; empty if process
  // what guests see
  bool sse42 = false, avx = false, avx512 = false, xsave = false, fsgsbase = false;  // of x86-64
  bool sets_accessed_dirty = false;  // of arm64: the processor sets both bits in page-table entries
  bool giant_pages = false;
  std::string cpu_model;
  // the host kernel
  bool userfaultfd = false, io_uring = false;
  std::string huge_anonymous, huge_shared;  // "always", "madvise", "never", ...; empty if unknown
  std::uint64_t memlock = 0;  // bytes; ~0: unlimited
  std::uint64_t max_map_count = 0;  // 0: unknown
};

// Tries everything out, with a guest of a few instructions. Takes some milliseconds.
HostFacts probe_host(const std::string& kvm_device = "/dev/kvm");

struct Finding {
  std::string name, value;
  bool ok = true;
  bool required = false;  // without it ramet runs no guests
  std::string advice;  // empty if ok
};

// In the order in which they are printed. doctor(): of this host, probed now.
std::vector<Finding> findings(const HostFacts&);
std::vector<Finding> doctor();

}  // namespace ramet::vmm
