// What benchmarks of whole VMs share.
#pragma once

#include <benchmark/benchmark.h>
#include <errno.h>

#include <algorithm>
#include <cstdlib>
#include <expected>
#include <iostream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "bench/ticks.h"
#include "vmm/error.hpp"
#include "vmm/make_machine.hpp"

namespace ramet::bench {

// Ends the program at once, whatever its other threads do.
[[noreturn]] inline void give_up(const std::string& why) {
  std::cerr << program_invocation_short_name << ": " << why << std::endl;
  std::_Exit(1);
}

template <class T>
T must(std::expected<T, vmm::Failure> r) {
  if (!r) give_up(r.error().message);
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}

// The machine of all VMs that a benchmark makes: --machine=NAME as `ramet run` knows it, which is taken out of the
// arguments.
inline vmm::MachineChoice machine_choice;
inline void take_machine(int& argc, char** argv) {
  using Kind = vmm::MachineChoice::Kind;
  constexpr std::string_view kOption = "--machine=";
  char** end = std::remove_if(argv + 1, argv + argc, [&](std::string_view argument) {
    if (!argument.starts_with(kOption)) return false;
    const auto name = argument.substr(kOption.size());
    if (name != "auto" && name != "kvm" && name != "process") give_up("no machine is called " + std::string(name));
    machine_choice.kind = name == "kvm" ? Kind::Kvm : name == "process" ? Kind::Process : Kind::Auto;
    return true;
  });
  argc = static_cast<int>(end - argv);
  argv[argc] = nullptr;
}

// Between two readings of ramet_ticks().
inline double microseconds(std::uint64_t from, std::uint64_t to) {
  static const double us_per_tick = ns_per_tick() / 1e3;
  return double(to - from) * us_per_tick;
}

// main() of the programs that have no options but --machine and Google Benchmark's.
inline int run_benchmarks(int argc, char** argv) {
  take_machine(argc, argv);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace ramet::bench
