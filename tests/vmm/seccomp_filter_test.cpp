// The filters of the process machine, interpreted, against plain arithmetic: millions of random calls, most of them
// near an edge. Hand-picked cases do not find a jump that is off by one.
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <random>

#include "arch/process_stub.hpp"
#include "tests/scaled.hpp"
#include "vmm/process/seccomp_filter.hpp"

namespace ramet::vmm::process {
namespace {

using Program = FilterBuilder::Program;

// Classic BPF, as far as the filters use it. Anything else, and a way out of the program, is a failure.
std::uint32_t interpret(const Program& program, const seccomp_data& data) {
  std::uint32_t a = 0, x = 0;
  std::array<std::uint32_t, BPF_MEMWORDS> memory{};
  for (std::size_t pc = 0; pc < program.size(); ++pc) {
    const sock_filter& i = program[pc];
    const auto jump = [&](bool taken) { pc += taken ? i.jt : i.jf; };
    switch (i.code) {
      case BPF_LD | BPF_W | BPF_ABS: std::memcpy(&a, reinterpret_cast<const char*>(&data) + i.k, 4); break;
      case BPF_LD | BPF_IMM: a = i.k; break;
      case BPF_LD | BPF_MEM: a = memory[i.k]; break;
      case BPF_LDX | BPF_MEM: x = memory[i.k]; break;
      case BPF_ST: memory[i.k] = a; break;
      case BPF_MISC | BPF_TAX: x = a; break;
      case BPF_ALU | BPF_ADD | BPF_X: a += x; break;
      case BPF_JMP | BPF_JA: pc += i.k; break;
      case BPF_JMP | BPF_JEQ | BPF_K: jump(a == i.k); break;
      case BPF_JMP | BPF_JGT | BPF_K: jump(a > i.k); break;
      case BPF_JMP | BPF_JGE | BPF_K: jump(a >= i.k); break;
      case BPF_JMP | BPF_JGE | BPF_X: jump(a >= x); break;
      case BPF_RET | BPF_K: return i.k;
      default: ADD_FAILURE() << "instruction " << pc << " has code " << i.code; return SECCOMP_RET_KILL_PROCESS;
    }
  }
  ADD_FAILURE() << "the program has no end";
  return SECCOMP_RET_KILL_PROCESS;
}

struct Numbers {
  std::mt19937_64 random;
  explicit Numbers(std::uint64_t seed) : random(seed) {}
  std::uint64_t below(std::uint64_t n) { return random() % n; }
  // Edges of what the filters compare with, and of 32 and 64 bits, and what lies a little beside them.
  std::uint64_t near_an_edge() {
    static constexpr std::uint64_t kEdges[] = {0,
                                               1,
                                               4096,
                                               0xffff'ffff,
                                               1ull << 32,
                                               1ull << 47,
                                               1ull << 63,
                                               ~0ull,
                                               RAMET_USER_END,
                                               RAMET_STUB_TEXT,
                                               RAMET_TOLD,
                                               RAMET_SAID,
                                               RAMET_SAID + RAMET_CONTEXTS * std::uint64_t{RAMET_SAID_SIZE},
                                               RAMET_TOP,
                                               RAMET_USER_END & 0xffff'ffff,
                                               RAMET_USER_END >> 32 << 32};
    std::uint64_t v = kEdges[below(std::size(kEdges))];
    switch (below(4)) {
      case 0: return v;
      case 1: return v + below(5) - 2;
      case 2: return v + (below(5) - 2) * 4096;
      default: return random() >> below(64);
    }
  }
};

bool may(const seccomp_data& d, bool mapper, bool maps) {
  const auto& a = d.args;
  const auto one_of = [](std::uint64_t v, std::initializer_list<std::uint64_t> values) {
    return std::find(values.begin(), values.end(), v) != values.end();
  };
  if (d.arch != arch::process_stub::kAuditArchitecture) return false;
  if (d.instruction_pointer < RAMET_STUB_TEXT || d.instruction_pointer > RAMET_STUB_TEXT + 0x1000) return false;
  const bool below_end = static_cast<unsigned __int128>(a[0]) + a[1] <= RAMET_USER_END;
  const bool protection = one_of(a[2], {PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC});
  const auto& base = arch::process_stub::kBaseCall;
  if (base.by_kernel && static_cast<std::uint64_t>(d.nr) == base.number)
    return (a[0] == base.codes[0] || a[0] == base.codes[1]) && a[1] < RAMET_USER_END;
  switch (d.nr) {
    case SYS_rt_sigreturn: return true;
    case SYS_futex:
      return a[0] >= RAMET_TOLD && a[0] < RAMET_SAID + RAMET_CONTEXTS * std::uint64_t{RAMET_SAID_SIZE} &&
             one_of(a[1], {FUTEX_WAIT, FUTEX_WAKE}) && a[3] == 0;
    case SYS_mmap:
      return maps && below_end && protection &&
             one_of(a[3], {MAP_SHARED | MAP_FIXED, MAP_SHARED | MAP_FIXED | MAP_POPULATE});
    case SYS_munmap: return maps && below_end;
    case SYS_mprotect: return maps && below_end && protection;
    case SYS_clone: return mapper && a[0] == thread_flags();
    case RAMET_HAND_OVER: return true;
    case SYS_recvmsg: return mapper && a[0] == kMapperSocket;
    case SYS_sendmsg: return mapper && a[0] == kMapperSocket && a[1] == RAMET_TOLD + TOLD_DATA && a[2] == 0;
    case SYS_close_range: return mapper && a[2] == 0;
    case SYS_close:
    case SYS_sigaltstack:
    case SYS_rt_sigprocmask: return mapper;
    case SYS_seccomp:
      return mapper && a[0] == SECCOMP_SET_MODE_FILTER && one_of(a[1], {4, 12});  // SPEC_ALLOW, and NEW_LISTENER
    default: return false;
  }
}

struct Case {
  const char* name;
  Program program;
  bool mapper, maps;
};

std::vector<Case> cases() {
  return {{"the mapper's", mapper_filter(), true, true},
          {"a vCPU's", vcpu_filter(true), false, true},
          {"a hardened vCPU's", vcpu_filter(false), false, false}};
}

// A call that a check somewhere lets pass, as often as one that none does.
seccomp_data draw(Numbers& n) {
  static const long kCalls[] = {SYS_mmap,
                                SYS_munmap,
                                SYS_mprotect,
                                SYS_futex,
                                static_cast<long>(arch::process_stub::kBaseCall.number),
                                SYS_clone,
                                SYS_recvmsg,
                                SYS_sendmsg,
                                RAMET_HAND_OVER,
                                SYS_close,
                                SYS_close_range,
                                SYS_sigaltstack,
                                SYS_rt_sigprocmask,
                                SYS_seccomp,
                                SYS_rt_sigreturn};
  seccomp_data d{};
  d.arch = n.below(64) ? arch::process_stub::kAuditArchitecture : static_cast<std::uint32_t>(n.near_an_edge());
  d.instruction_pointer = n.below(8) ? RAMET_STUB_TEXT + n.below(0x1001) : n.near_an_edge();
  d.nr = static_cast<int>(n.below(16) ? kCalls[n.below(std::size(kCalls))] : static_cast<long>(n.near_an_edge()));
  for (auto& a : d.args) a = n.near_an_edge();
  if (n.below(2)) {  // the small ones as they should be, so that the others decide
    d.args[2] = n.below(8);
    d.args[3] = n.below(2) ? 0x11 : n.below(2) ? 0x8011 : 0;
  }
  if (d.nr == SYS_futex && n.below(2)) d.args[1] = n.below(3);
  if (static_cast<std::uint64_t>(d.nr) == arch::process_stub::kBaseCall.number && n.below(2))
    d.args[0] = 0x1000 + n.below(4);
  if (d.nr == SYS_clone && n.below(2)) d.args[0] = thread_flags() ^ (n.below(2) ? 0 : 1ull << n.below(64));
  if (d.nr == SYS_close_range && n.below(2)) d.args[2] = 0;
  if ((d.nr == SYS_recvmsg || d.nr == SYS_sendmsg) && n.below(2)) d.args[0] = n.below(8);
  if (d.nr == SYS_sendmsg && n.below(2))
    d.args[1] = RAMET_TOLD + TOLD_DATA + (n.below(2) ? 0 : 1ull << n.below(64)), d.args[2] = n.below(2);
  if (d.nr == SYS_seccomp && n.below(2)) d.args[0] = n.below(3), d.args[1] = n.below(16);
  return d;
}

TEST(SeccompFilter, LetsPassWhatArithmeticDoesAndTrapsAllElse) {
  const std::uint64_t seed = std::random_device()();
  const unsigned draws = test::scaled(1'000'000, 100'000);
  for (const Case& c : cases()) {
    Numbers n(seed);
    std::uint64_t passed = 0, trapped = 0;
    for (unsigned i = 0; i < draws; ++i) {
      const seccomp_data d = draw(n);
      const bool wanted = may(d, c.mapper, c.maps);
      const std::uint32_t got = interpret(c.program, d);
      ++(wanted ? passed : trapped);
      const std::uint32_t passes = d.nr == RAMET_HAND_OVER && !c.mapper ? SECCOMP_RET_USER_NOTIF : SECCOMP_RET_ALLOW;
      ASSERT_EQ(got, wanted ? passes : SECCOMP_RET_TRAP)
          << c.name << " filter, seed " << seed << ", call " << d.nr << std::hex << " from " << d.instruction_pointer
          << " with " << d.args[0] << ' ' << d.args[1] << ' ' << d.args[2] << ' ' << d.args[3];
    }
    EXPECT_GT(passed, draws / 100) << c.name;  // the draw reaches both sides
    EXPECT_GT(trapped, draws / 10) << c.name;
  }
}

// Each jump of each check, bent by one: random calls must notice.
TEST(SeccompFilter, AWrongJumpIsNoticed) {
  const std::pair<const char*, std::function<void(FilterBuilder&)>> checks[] = {
      {"is", [](FilterBuilder& f) { f.is(0, RAMET_TOLD); }},
      {"one_of", [](FilterBuilder& f) { f.one_of(0, {1, 2, 4}); }},
      {"at_least", [](FilterBuilder& f) { f.at_least(0, RAMET_TOLD); }},
      {"below", [](FilterBuilder& f) { f.below(0, RAMET_USER_END); }},
      {"sum_at_most", [](FilterBuilder& f) { f.sum_at_most(0, 1, RAMET_USER_END); }},
  };
  for (const auto& [name, check] : checks) {
    FilterBuilder builder;
    builder.allow(SYS_mmap, [&] { check(builder); });
    const Program sound = builder.take();
    unsigned jumps = 0;
    for (std::size_t at = 0; at < sound.size(); ++at) {
      const unsigned kind = BPF_CLASS(sound[at].code);
      if (kind != BPF_JMP || BPF_OP(sound[at].code) == BPF_JA) continue;
      for (const bool taken : {true, false}) {
        Program bent = sound;
        const unsigned to = ++(taken ? bent[at].jt : bent[at].jf);
        if (at + 1 + to >= bent.size()) continue;
        ++jumps;
        Numbers n(at);
        bool noticed = false;
        for (int i = 0; i < 1'000'000 && !noticed; ++i) {
          seccomp_data d{};
          d.nr = n.below(8) ? SYS_mmap : SYS_munmap;
          for (auto& a : d.args) a = n.below(4) ? n.near_an_edge() : n.below(6);
          if (n.below(4) == 0) d.args[1] = RAMET_USER_END - d.args[0] + n.below(3) - 1;
          noticed = interpret(bent, d) != interpret(sound, d);
        }
        EXPECT_TRUE(noticed) << name << ": instruction " << at << ", where it " << (taken ? "holds" : "does not hold");
      }
    }
    EXPECT_GE(jumps, 4u) << name;
  }
}

TEST(SeccompFilter, FitsIntoItsPage) {
  EXPECT_LE((mapper_filter().size() + vcpu_filter(true).size()) * sizeof(sock_filter), RAMET_TOLD_SIZE - 64u);
}

}  // namespace
}  // namespace ramet::vmm::process
