#include "vmm/process/seccomp_filter.hpp"

#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cstddef>
#include <utility>

#include "arch/process_stub.hpp"

namespace ramet::vmm::process {
namespace {

constexpr std::size_t low(unsigned argument) { return offsetof(seccomp_data, args) + 8 * argument; }
constexpr std::size_t high(unsigned argument) { return low(argument) + 4; }
constexpr std::uint32_t low_half(std::uint64_t v) { return static_cast<std::uint32_t>(v); }
constexpr std::uint32_t high_half(std::uint64_t v) { return static_cast<std::uint32_t>(v >> 32); }

}  // namespace

void FilterBuilder::load(std::size_t offset) { add(BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offset)); }
void FilterBuilder::trap() { add(BPF_RET | BPF_K, SECCOMP_RET_TRAP); }

void FilterBuilder::architecture_is(std::uint32_t audit_architecture) {
  load(offsetof(seccomp_data, arch));
  jump(BPF_JEQ | BPF_K, audit_architecture, 1, 0);
  trap();
}

void FilterBuilder::pointer_in(std::uint64_t start, std::uint64_t bytes) {
  load(offsetof(seccomp_data, instruction_pointer) + 4);
  jump(BPF_JEQ | BPF_K, high_half(start), 0, 3);
  load(offsetof(seccomp_data, instruction_pointer));
  jump(BPF_JGE | BPF_K, low_half(start), 0, 1);
  jump(BPF_JGT | BPF_K, low_half(start + bytes), 0, 1);  // the pointer is past the instruction
  trap();
}

void FilterBuilder::allow(long number, const std::function<void()>& checks, std::uint32_t what) {
  load(offsetof(seccomp_data, nr));
  jump(BPF_JEQ | BPF_K, static_cast<std::uint32_t>(number), 1, 0);
  const std::size_t skip = program_.size();
  add(BPF_JMP | BPF_JA, 0);
  checks();
  add(BPF_RET | BPF_K, what);
  program_[skip].k = static_cast<std::uint32_t>(program_.size() - skip - 1);
}

void FilterBuilder::is(unsigned argument, std::uint64_t value) {
  load(high(argument));
  jump(BPF_JEQ | BPF_K, high_half(value), 0, 2);
  load(low(argument));
  jump(BPF_JEQ | BPF_K, low_half(value), 1, 0);
  trap();
}

void FilterBuilder::one_of(unsigned argument, std::span<const std::uint32_t> values) {
  load(high(argument));
  jump(BPF_JEQ | BPF_K, 0, 1, 0);
  trap();
  load(low(argument));
  auto left = static_cast<unsigned>(values.size());
  for (const std::uint32_t value : values) jump(BPF_JEQ | BPF_K, value, left--, 0);
  trap();
}

void FilterBuilder::at_least(unsigned argument, std::uint64_t limit) {
  load(high(argument));
  jump(BPF_JGT | BPF_K, high_half(limit), 4, 0);
  jump(BPF_JEQ | BPF_K, high_half(limit), 0, 2);
  load(low(argument));
  jump(BPF_JGE | BPF_K, low_half(limit), 1, 0);
  trap();
}

void FilterBuilder::below(unsigned argument, std::uint64_t limit) {
  load(high(argument));
  jump(BPF_JGT | BPF_K, high_half(limit), 3, 0);
  jump(BPF_JEQ | BPF_K, high_half(limit), 0, 3);
  load(low(argument));
  jump(BPF_JGE | BPF_K, low_half(limit), 0, 1);
  trap();
}

void FilterBuilder::sum_at_most(unsigned a, unsigned b, std::uint64_t limit) {
  enum : std::uint32_t { LowOfA, Low, Carry };  // scratch words
  for (const unsigned argument : {a, b}) {
    load(high(argument));
    jump(BPF_JGT | BPF_K, 0x7fff, 0, 1);
    trap();
  }
  load(low(a));
  add(BPF_ST, LowOfA);
  load(low(b));
  add(BPF_MISC | BPF_TAX, 0);
  add(BPF_LD | BPF_MEM, LowOfA);
  add(BPF_ALU | BPF_ADD | BPF_X, 0);
  add(BPF_ST, Low);
  add(BPF_LDX | BPF_MEM, LowOfA);
  jump(BPF_JGE | BPF_X, 0, 2, 0);  // no less than either: it did not wrap
  add(BPF_LD | BPF_IMM, 1);
  jump(BPF_JA, 1, 0, 0);
  add(BPF_LD | BPF_IMM, 0);
  add(BPF_ST, Carry);
  load(high(b));
  add(BPF_MISC | BPF_TAX, 0);
  load(high(a));
  add(BPF_ALU | BPF_ADD | BPF_X, 0);
  add(BPF_LDX | BPF_MEM, Carry);
  add(BPF_ALU | BPF_ADD | BPF_X, 0);
  jump(BPF_JGT | BPF_K, high_half(limit), 3, 0);
  jump(BPF_JEQ | BPF_K, high_half(limit), 0, 3);
  add(BPF_LD | BPF_MEM, Low);
  jump(BPF_JGT | BPF_K, low_half(limit), 0, 1);
  trap();
}

FilterBuilder::Program FilterBuilder::take() {
  trap();
  return std::exchange(program_, {});
}

std::uint64_t thread_flags() {
  return CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
}

namespace {

void from_the_stub(FilterBuilder& f) {
  f.architecture_is(arch::process_stub::kAuditArchitecture);
  f.pointer_in(RAMET_STUB_TEXT, 0x1000);
}

// Hand-over to the VMM, and back into guest code. `hand_over`: the verdict on RAMET_HAND_OVER. Of all filters of a
// thread the strictest verdict counts: the mapper's, which guest threads inherit, allows what theirs reports to the
// VMM.
void allow_running(FilterBuilder& f, std::uint32_t hand_over) {
  constexpr std::uint64_t kEnd = RAMET_SAID + std::uint64_t{RAMET_CONTEXTS} * RAMET_SAID_SIZE;
  f.allow(SYS_rt_sigreturn);
  f.allow(SYS_futex, [&] {
    f.at_least(0, RAMET_TOLD);
    f.below(0, kEnd);
    f.one_of(1, {FUTEX_WAIT, FUTEX_WAKE});
    f.is(3, 0);
  });
  if (const auto& call = arch::process_stub::kBaseCall; call.by_kernel)
    f.allow(static_cast<long>(call.number), [&] {
      f.one_of(0, call.codes);
      f.below(1, RAMET_USER_END);
    });
  f.allow(RAMET_HAND_OVER, [] {}, hand_over);
}

// Mappings of the process's own files, below the guest's end, never writable and executable.
void allow_mapping(FilterBuilder& f) {
  constexpr std::uint32_t kRead = PROT_READ, kWrite = PROT_READ | PROT_WRITE, kExecute = PROT_READ | PROT_EXEC;
  f.allow(SYS_mmap, [&] {
    f.sum_at_most(0, 1, RAMET_USER_END);
    f.one_of(2, {kRead, kWrite, kExecute});
    f.one_of(3, {MAP_SHARED | MAP_FIXED, MAP_SHARED | MAP_FIXED | MAP_POPULATE});
  });
  f.allow(SYS_munmap, [&] { f.sum_at_most(0, 1, RAMET_USER_END); });
  f.allow(SYS_mprotect, [&] {
    f.sum_at_most(0, 1, RAMET_USER_END);
    f.one_of(2, {kRead, kWrite, kExecute});
  });
}

}  // namespace

FilterBuilder::Program mapper_filter() {
  FilterBuilder f;
  from_the_stub(f);
  allow_running(f, SECCOMP_RET_ALLOW);
  allow_mapping(f);
  f.allow(SYS_clone, [&] { f.is(0, thread_flags()); });
  f.allow(SYS_recvmsg, [&] { f.is(0, kMapperSocket); });
  f.allow(SYS_sendmsg, [&] {
    f.is(0, kMapperSocket);
    f.is(1, kMapperMessage);
    f.is(2, 0);
  });
  f.allow(SYS_close);
  f.allow(SYS_close_range, [&] { f.is(2, 0); });
  // What a new thread does before it has a filter of its own.
  f.allow(SYS_sigaltstack);
  f.allow(SYS_rt_sigprocmask);
  f.allow(SYS_seccomp, [&] {
    f.is(0, SECCOMP_SET_MODE_FILTER);
    f.one_of(1, {SECCOMP_FILTER_FLAG_SPEC_ALLOW, SECCOMP_FILTER_FLAG_SPEC_ALLOW | SECCOMP_FILTER_FLAG_NEW_LISTENER});
  });
  return f.take();
}

FilterBuilder::Program vcpu_filter(bool maps) {
  FilterBuilder f;
  from_the_stub(f);
  allow_running(f, SECCOMP_RET_USER_NOTIF);
  if (maps) allow_mapping(f);
  return f.take();
}

}  // namespace ramet::vmm::process
