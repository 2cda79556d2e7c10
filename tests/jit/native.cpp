#include "tests/jit/native.hpp"

#include <gtest/gtest.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arch/guest_abi.hpp"
#include "arch/host_processor.hpp"

namespace ramet::jit::test {
namespace {

constexpr int kCaught[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGALRM};
constexpr unsigned kSeconds = 30;
constexpr std::size_t kBefore =
    64;  // bytes before the code: sanitizers look there for what clang writes before functions
sigjmp_buf back;

void caught(int signal) { siglongjmp(back, signal); }

class Guard {
 public:
  Guard() {
    struct sigaction action{};
    action.sa_handler = caught;
    action.sa_flags = SA_NODEFER;
    for (std::size_t n = 0; n < std::size(kCaught); ++n) ::sigaction(kCaught[n], &action, &before_[n]);
    ::alarm(kSeconds);
  }
  ~Guard() {
    ::alarm(0);
    for (std::size_t n = 0; n < std::size(kCaught); ++n) ::sigaction(kCaught[n], &before_[n], nullptr);
  }

 private:
  struct sigaction before_[std::size(kCaught)];
};

}  // namespace

InstructionSet host_instruction_set() {
  constexpr std::uint16_t kElfX86 = 62;
  return arch::host_abi().elf_machine == kElfX86 ? InstructionSet::X86_64 : InstructionSet::Arm64;
}

Native::Native() {
  code_ = static_cast<std::uint8_t*>(
      ::mmap(nullptr, kRoom, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (code_ == MAP_FAILED) std::abort();
}

Native::~Native() { ::munmap(code_, kRoom); }

// By turns writable and executable: emulators of arm64 go by that, and not by the instructions of the cache.
const void* Native::place(const Compiled& program, const Interpreter& with) {
  const std::size_t size = kBefore + program.code().size();
  std::uint8_t* const code = code_ + kBefore;
  if (size > kRoom || ::mprotect(code_, size, PROT_READ | PROT_WRITE) != 0) std::abort();
  program.place({code, kRoom - kBefore}, reinterpret_cast<std::uint64_t>(code), [&](const Relocation& r) {
    switch (r.kind) {
      case Relocation::Kind::Helper: return reinterpret_cast<std::uint64_t>(with.helper(r.number));
      case Relocation::Kind::Map: return with.address(Wide::Map, r.number, 0);
      case Relocation::Kind::MapValue: return with.address(Wide::MapValue, r.number, r.offset);
      default: return with.address(Wide::Variable, r.number, 0);
    }
  });
  if (::mprotect(code_, size, PROT_READ | PROT_EXEC) != 0) std::abort();
  auto* start = reinterpret_cast<char*>(code_);
  __builtin___clear_cache(start, start + size);
  return code;
}

std::optional<std::uint64_t> Native::run(std::uint64_t r1, std::uint64_t r2) {
  const Guard guard;
  ended_by = sigsetjmp(back, 0);
  if (ended_by != 0) return std::nullopt;
  return reinterpret_cast<std::uint64_t (*)(std::uint64_t, std::uint64_t)>(code_ + kBefore)(r1, r2);
}

std::optional<std::uint64_t> run_native(const Program& program, const Interpreter& with, std::uint64_t r1,
                                        std::uint64_t r2) {
  static Native native;
  const Known known{.helpers = std::vector<bool>(64, true), .variables = std::vector<bool>(4, true)};
  const auto checked = check(program, known);
  EXPECT_TRUE(checked) << checked.error().said();
  if (!checked) return std::nullopt;
  native.place(compile(*checked, host_instruction_set()), with);
  const auto result = native.run(r1, r2);
  EXPECT_EQ(native.ended_by, 0) << "signal";
  return result;
}

}  // namespace ramet::jit::test
