// What the eBPF compiler costs and what its code is worth: nanoseconds and bytes for an instruction, and programs of C
// beside the same source compiled by gcc -O2 (bpf/programs.c).
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

#include "arch/guest_abi.hpp"
#include "arch/host_processor.hpp"
#include "jit/compiler.hpp"
#include "jit/loader.hpp"

extern "C" {
std::uint64_t xorshift64(void*, std::uint64_t);
std::uint64_t xorshift32(void*, std::uint64_t);
std::uint64_t reads(void*, std::uint64_t);
std::uint64_t collatz(void*, std::uint64_t);
std::uint64_t packets(void*, std::uint64_t);
std::uint64_t crc32(void*, std::uint64_t);
std::uint64_t sha256(void*, std::uint64_t);
std::uint64_t helpers(void*, std::uint64_t);
[[gnu::noinline]] std::uint64_t helper(std::uint64_t value) { return value * 3 + 1; }
}

namespace {

using namespace ramet::jit;
using Function = std::uint64_t (*)(void*, std::uint64_t);

constexpr std::size_t kMemory = 32 << 20;

[[noreturn]] void give_up(const std::string& why) {
  std::fprintf(stderr, "bench_jit: %s\n", why.c_str());
  std::exit(1);
}

const Known& known() {
  static const Known kKnown{.helpers = {false, true}, .variables = {}};
  return kKnown;
}
Checked checked(const Program& program) {
  auto result = check(program, known());
  if (!result) give_up(result.error().said());
  return *std::move(result);
}
InstructionSet host() {
  return ramet::arch::host_abi().elf_machine == 62 ? InstructionSet::X86_64 : InstructionSet::Arm64;
}

const Object& object() {
  static const Object loaded = [] {
    std::ifstream file(BPF_PROGRAMS, std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
    auto result = load_object(std::as_bytes(std::span(bytes)));
    if (!result) give_up(result.error());
    return *std::move(result);
  }();
  return loaded;
}

std::uint8_t* memory() {
  static std::uint8_t* const start = [] {
    auto* p = static_cast<std::uint8_t*>(
        ::mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (p == MAP_FAILED) give_up("no memory");
    std::mt19937_64 random(1);
    for (std::size_t at = 0; at < kMemory; at += 8) {
      const std::uint64_t word = random();
      std::memcpy(p + at, &word, 8);
    }
    return p;
  }();
  return start;
}

Function compiled(const char* name) {
  for (const Program& program : object().programs) {
    if (program.name != name) continue;
    const Compiled code = compile(checked(program), host());
    // Near the helper, as a guest's code space is.
    static std::uintptr_t near = (reinterpret_cast<std::uintptr_t>(helper) & ~std::uintptr_t{0xfffff}) -
                                 (std::uintptr_t{1} << 28);
    auto* p = static_cast<std::uint8_t*>(::mmap(reinterpret_cast<void*>(near += 1 << 20), code.code().size(),
                                                PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (p == MAP_FAILED) give_up("no memory");
    code.place({p, code.code().size()}, reinterpret_cast<std::uint64_t>(p),
               [](const Relocation&) { return reinterpret_cast<std::uint64_t>(helper); });
    if (::mprotect(p, code.code().size(), PROT_READ | PROT_EXEC) != 0) give_up("no executable memory");
    __builtin___clear_cache(reinterpret_cast<char*>(p), reinterpret_cast<char*>(p) + code.code().size());
    return reinterpret_cast<Function>(p);
  }
  give_up(std::string("no program ") + name);
}

void run(benchmark::State& state, Function function, std::uint64_t count) {
  std::uint64_t result = 0;
  for (auto _ : state) benchmark::DoNotOptimize(result = function(memory(), count));
  state.counters["per_round"] = benchmark::Counter(double(count), benchmark::Counter::kIsIterationInvariantRate |
                                                                      benchmark::Counter::kInvert);
}

// At least `count` instructions: the object's programs one after the other, repeated. Jumps stay within their program;
// each exit but the last becomes a move.
Program of_size(std::size_t count) {
  Program all;
  while (all.instructions.size() < count)
    for (const Program& program : object().programs) {
      const auto& code = program.instructions;
      if (all.instructions.size() >= count) break;
      for (const Instruction& i : code)
        all.instructions.push_back(
            i.opcode == opcode::kExit ? Instruction{.opcode = 0xb7, .registers = 0, .offset = 0, .immediate = 0} : i);
    }
  all.instructions.push_back({.opcode = opcode::kExit, .registers = 0, .offset = 0, .immediate = 0});
  return all;
}

void compile_many(benchmark::State& state, InstructionSet set, std::size_t count) {
  const Program program = of_size(count);
  std::size_t bytes = 0;
  for (auto _ : state) {
    const Compiled code = compile(checked(program), set);
    bytes = code.code().size();
    benchmark::DoNotOptimize(bytes);
  }
  const auto instructions = double(program.instructions.size());
  state.counters["per_instruction"] = benchmark::Counter(instructions, benchmark::Counter::kIsIterationInvariantRate |
                                                                           benchmark::Counter::kInvert);
  state.counters["bytes"] = double(bytes) / instructions;
}

void add(const char* name, Function native, std::uint64_t count) {
  const Function ours = compiled(name);
  if (ours(memory(), 100) != native(memory(), 100)) {
    // sha256 changes its memory, so its two runs began with different input.
    if (std::strcmp(name, "sha256") != 0) give_up(std::string(name) + " gives another result than gcc's");
  }
  benchmark::RegisterBenchmark((std::string(name) + "/gcc").c_str(), run, native, count)->Unit(benchmark::kMicrosecond);
  benchmark::RegisterBenchmark((std::string(name) + "/jit").c_str(), run, ours, count)->Unit(benchmark::kMicrosecond);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (const std::size_t count : {std::size_t{1}, std::size_t{1000}, std::size_t{60000}}) {
    benchmark::RegisterBenchmark(("compile/x86-64/" + std::to_string(count)).c_str(), compile_many,
                                 InstructionSet::X86_64, count);
    benchmark::RegisterBenchmark(("compile/arm64/" + std::to_string(count)).c_str(), compile_many,
                                 InstructionSet::Arm64, count);
  }
  add("xorshift64", xorshift64, 100000);
  add("xorshift32", xorshift32, 100000);
  add("reads", reads, 100000);
  add("collatz", collatz, 1000);
  add("packets", packets, 100000);
  add("crc32", crc32, 100000);
  add("sha256", sha256, 1000);
  add("helpers", helpers, 100000);
  benchmark::RunSpecifiedBenchmarks();
}
