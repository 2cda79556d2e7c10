// The system calls that a guest's host process may make, as seccomp programs. Guest code makes none: whatever does not
// come from the stub's page becomes a trap (SECCOMP_RET_TRAP), and what the stub may make is checked argument by
// argument, as a guest can jump there with registers of its own.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <span>
#include <vector>

#include "arch/process_layout.h"

namespace ramet::vmm::process {

// Classic BPF on struct seccomp_data, 32 bits at a time. A check goes on with what satisfies it, and traps the rest.
class FilterBuilder {
 public:
  using Program = std::vector<sock_filter>;

  void architecture_is(std::uint32_t audit_architecture);
  void pointer_in(std::uint64_t start, std::uint64_t bytes);  // the instruction pointer; a range within one 4 GiB
  // Calls of that number get the verdict `what` if they satisfy all that `checks` adds, and are trapped else.
  void allow(long number, const std::function<void()>& checks = [] {}, std::uint32_t what = SECCOMP_RET_ALLOW);
  // Checks of an argument.
  void is(unsigned argument, std::uint64_t value);
  void one_of(unsigned argument, std::span<const std::uint32_t> values);
  void one_of(unsigned argument, std::initializer_list<std::uint32_t> values) {
    one_of(argument, std::span(values.begin(), values.size()));
  }
  void at_least(unsigned argument, std::uint64_t limit);
  void below(unsigned argument, std::uint64_t limit);
  // The sum of two arguments, each of which has to be below 2^47. Precondition: limit < 2^47.
  void sum_at_most(unsigned a, unsigned b, std::uint64_t limit);
  Program take();

 private:
  void add(unsigned code, std::uint32_t k) { program_.push_back(BPF_STMT(static_cast<std::uint16_t>(code), k)); }
  void jump(unsigned code, std::uint32_t k, unsigned if_so, unsigned if_not) {
    program_.push_back(BPF_JUMP(static_cast<std::uint16_t>(BPF_JMP | code), k, static_cast<std::uint8_t>(if_so),
                                static_cast<std::uint8_t>(if_not)));
  }
  void load(std::size_t offset);
  void trap();
  Program program_;
};

// The mapper's; threads that it makes inherit it.
FilterBuilder::Program mapper_filter();
// In addition, of threads that run guest code. `maps`: they carry out changes of the process's mappings.
FilterBuilder::Program vcpu_filter(bool maps);

// How the mapper makes a thread: flags of clone(2).
std::uint64_t thread_flags();
inline constexpr int kMapperSocket = 5;  // its descriptor for what it is given, and for listeners that it gives
// Where the message with a listener lies: the process cannot write there.
inline constexpr std::uint64_t kMapperMessage = RAMET_TOLD + TOLD_DATA;

}  // namespace ramet::vmm::process
