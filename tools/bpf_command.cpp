// `ramet bpf`: eBPF functions as guests, what they are compiled to, and what they cost.
#include <elf.h>
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>

#include "jit/check.hpp"
#include "jit/loader.hpp"
#include "tools/commands.hpp"
#include "tools/disassemble.hpp"
#include "tools/report.hpp"
#include "tools/run_options.hpp"
#include "tools/soft_program.hpp"
#include "vmm/bpf/guest.hpp"

namespace ramet::tools {
namespace {

using vmm::failure;
using vmm::Failure;
namespace bpf = vmm::bpf;
using Bytes = std::vector<std::byte>;

struct BpfOptions {
  RunSettings machine;
  std::string object, raw, section, input, input_hex, output, arch;
  std::uint64_t calls = 1000;
};

std::expected<Bytes, Failure> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return failure(fmt::format("{}: {}", path, std::strerror(errno)), 127);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  if (file.bad()) return failure(fmt::format("{} cannot be read", path));
  const auto bytes = std::as_bytes(std::span(text));
  return Bytes(bytes.begin(), bytes.end());
}

// White space between digits is passed over. Errors: `what` is not pairs of digits.
std::expected<Bytes, Failure> from_hex(std::string text, std::string_view what) {
  std::erase_if(text, [](unsigned char c) { return std::isspace(c) != 0; });
  Bytes bytes(text.size() / 2);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::uint8_t value = 0;
    const char* at = text.data() + 2 * i;
    if (const auto [end, error] = std::from_chars(at, at + 2, value, 16); error != std::errc() || end != at + 2)
      return failure(fmt::format("{}: \"{}\" is no byte in hexadecimal digits", what, std::string_view(at, 2)));
    bytes[i] = std::byte{value};
  }
  if (text.size() % 2 != 0) return failure(fmt::format("{} has an odd number of hexadecimal digits", what));
  return bytes;
}

// The object, or one that holds the bare instructions.
std::expected<jit::Object, Failure> object_of(const BpfOptions& o) {
  if (o.raw.empty() == o.object.empty())
    return failure("bpf needs an OBJECT.o, or instructions by --raw (see ramet bpf --help)");
  if (o.raw.empty()) {
    const auto file = read_file(o.object);
    if (!file) return std::unexpected(file.error());
    auto object = jit::load_object(*file);
    if (!object) return failure(fmt::format("{}: {}", o.object, object.error()), 126);
    return std::move(*object);
  }
  auto text = std::expected<Bytes, Failure>();
  if (o.raw[0] == '@') {
    if (text = read_file(o.raw.substr(1)); !text) return std::unexpected(text.error());
  }
  const std::string digits = o.raw[0] == '@' ? std::string(reinterpret_cast<const char*>(text->data()), text->size())
                                             : o.raw;
  const auto bytes = from_hex(digits, "--raw");
  if (!bytes) return std::unexpected(bytes.error());
  if (bytes->size() % sizeof(jit::Instruction) != 0)
    return failure(fmt::format("--raw has {} bytes; instructions have 8 each", bytes->size()), 126);
  jit::Program program{.name = "raw",
                       .section = {},
                       .instructions = std::vector<jit::Instruction>(bytes->size() / sizeof(jit::Instruction))};
  std::memcpy(program.instructions.data(), bytes->data(), bytes->size());
  jit::Object object;
  object.programs.push_back(std::move(program));
  return object;
}

std::expected<Bytes, Failure> input_of(const BpfOptions& o) {
  if (!o.input.empty() && !o.input_hex.empty())
    return failure("--input and --input-hex are two inputs; the program has one");
  return o.input.empty() ? from_hex(o.input_hex, "--input-hex") : read_file(o.input);
}

// A guest with the object's programs, of the section if one was named.
struct Ready {
  jit::Object object;
  std::unique_ptr<bpf::Guest> guest;
  bpf::Loaded loaded;
  Bytes input;
};
std::expected<Ready, Failure> prepare_guest(const BpfOptions& o) {
  Ready ready;
  auto object = object_of(o);
  if (!object) return std::unexpected(object.error());
  ready.object = std::move(*object);
  auto input = input_of(o);
  if (!input) return std::unexpected(input.error());
  ready.input = std::move(*input);
  auto prepared = prepare(o.machine);
  if (!prepared) return std::unexpected(prepared.error());
  if (!o.arch.empty()) prepared->machine.abi = arch::find_guest_abi(o.arch == "arm64" ? EM_AARCH64 : EM_X86_64);
  use_soft_program(prepared->machine);
  auto guest = bpf::Guest::create({.memory_bytes = prepared->run.memory_bytes,
                                   .techniques = prepared->techniques,
                                   .machine = prepared->machine,
                                   .timeout = prepared->run.timeout,
                                   .trace = [](std::string_view line) { fmt::print(stderr, "{}\n", line); }});
  if (!guest) return std::unexpected(guest.error());
  auto loaded = (*guest)->load(ready.object, o.section);
  if (!loaded) return std::unexpected(loaded.error());
  ready.loaded = std::move(*loaded);
  ready.guest = std::move(*guest);
  return ready;
}

void print_stat(bpf::Guest& guest) {
  const auto t = guest.shell().machine().totals();
  const auto code = guest.code_usage();
  fmt::print(stderr, "\n Counters (machine: {}):\n\n{}{}{}", vmm::name_of(guest.shell().choice()),
             lines(vmm::Counts{{"exits:syscall", t.syscalls},
                               {"exits:page-fault", t.page_faults},
                               {"exits:exception", t.exceptions},
                               {"exits:kick", t.kicks},
                               {"code:pieces", code.programs},
                               {"code:bytes", code.bytes},
                               {"code:blocks", code.blocks}}),
             lines(vmm::list(guest.memory().counters())), lines(guest.memory().usage()));
}

int status_of(const bpf::Outcome& outcome) {
  switch (outcome.kind) {
    case bpf::Outcome::Kind::Returned: return 0;
    case bpf::Outcome::Kind::Fault: return 128 + outcome.signal;
    case bpf::Outcome::Kind::TimedOut: return 124;
    default: return kCannot;
  }
}

int run(const BpfOptions& o) {
  auto ready = prepare_guest(o);
  if (!ready) return refuse(ready.error());
  const auto outcome = ready->guest->call(ready->loaded.programs.front(), ready->input);
  if (outcome.kind == bpf::Outcome::Kind::Returned) fmt::print("{:#x}\n", outcome.r0);
  else fmt::print(stderr, "ramet: {}\n", outcome.detail);
  if (!o.output.empty()) {
    std::ofstream file(o.output, std::ios::binary);
    file.write(reinterpret_cast<const char*>(ready->input.data()), static_cast<std::streamsize>(ready->input.size()));
    if (!file.flush()) return refuse({fmt::format("--output {}: {}", o.output, std::strerror(errno))});
  }
  if (o.machine.stat) print_stat(*ready->guest);
  return status_of(outcome);
}

// What a program may call where it is only looked at: everything.
jit::Known all_known() {
  return {.helpers = std::vector<bool>(1u << 16, true), .variables = std::vector<bool>(1u << 16, true)};
}

int disassemble(const BpfOptions& o) {
  const auto object = object_of(o);
  if (!object) return refuse(object.error());
  bool any = false;
  for (const auto& program : object->programs) {
    if (!o.section.empty() && program.section != o.section) continue;
    const auto checked = jit::check(program, all_known());
    if (!checked) return refuse({fmt::format("program {}: {}", program.name, checked.error().said()), 126});
    any = true;
    for (const auto& [name, set] :
         {std::pair{"x86-64", jit::InstructionSet::X86_64}, std::pair{"arm64", jit::InstructionSet::Arm64}}) {
      if (!o.arch.empty() && o.arch != name) continue;
      const auto compiled = jit::compile(*checked, set);
      const auto lines = tools::disassemble(compiled.code(), set);
      if (!lines) return refuse(lines.error());
      fmt::print("{}, section \"{}\", {}: {} instructions, {} bytes\n", program.name, program.section, name,
                 program.instructions.size(), compiled.code().size());
      for (std::uint32_t last = ~0u; const CodeLine& line : *lines) {
        const std::uint32_t of = compiled.instruction_at(line.offset);
        fmt::print("{:>6} {:>6x}: {}\n", of == last ? "" : std::to_string(of), line.offset, line.text);
        last = of;
      }
      fmt::print("\n");
    }
  }
  if (!any) return refuse({fmt::format("the object has no program in a section {}", o.section), 126});
  return 0;
}

using Clock = std::chrono::steady_clock;
double microseconds(Clock::duration d) { return std::chrono::duration<double, std::micro>(d).count(); }

double median(std::vector<double> samples) {
  std::ranges::nth_element(samples, samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2));
  return samples[samples.size() / 2];
}

// Of `rounds` runs of something.
template <class F>
double median_of(unsigned rounds, F&& what) {
  std::vector<double> samples(rounds);
  for (double& s : samples) {
    const auto begin = Clock::now();
    what();
    s = microseconds(Clock::now() - begin);
  }
  return median(std::move(samples));
}

int bench(const BpfOptions& o) {
  auto ready = prepare_guest(o);
  if (!ready) return refuse(ready.error());
  const auto& programs = ready->object.programs;
  const auto source = std::ranges::find_if(programs, [&](const jit::Program& p) {
    return o.section.empty() || p.section == o.section;
  });
  bpf::Guest& guest = *ready->guest;
  const bpf::Program& program = ready->loaded.programs.front();
  const jit::Known known = all_known();
  const jit::InstructionSet set = guest.instruction_set();
  const double count = static_cast<double>(program.instructions);
  const double compile = median_of(201, [&] { (void)jit::compile(*jit::check(*source, known), set); });
  // And in the guest: placed, stored, made executable; another time for each.
  std::vector<bpf::Loaded> loads;
  const double load = median_of(201, [&] {
    if (auto again = guest.load(ready->object, o.section)) loads.push_back(std::move(*again));
  });
  for (const auto& again : loads) guest.unload(again);
  const auto exits = [&] { return static_cast<double>(guest.shell().machine().totals().exits()); };
  bpf::Outcome last = guest.call(program, ready->input);
  const std::uint64_t calls = std::max<std::uint64_t>(o.calls, 1);
  const double before = exits();
  const double one = median_of(static_cast<unsigned>(calls), [&] { last = guest.call(program, ready->input); });
  const double between = exits();
  std::vector<Bytes> inputs(calls, ready->input);
  std::vector<bpf::Call> batch(calls);
  for (std::size_t i = 0; i < calls; ++i) batch[i] = {.program = &program, .context = inputs[i], .outcome = {}};
  guest.call(batch);
  const double warm = exits();
  constexpr unsigned kRounds = 5;
  const double all = median_of(kRounds, [&] { guest.call(batch); });
  if (last.kind != bpf::Outcome::Kind::Returned) {
    fmt::print(stderr, "ramet: {}\n", last.detail);
    return status_of(last);
  }
  fmt::print("{} ({}, machine: {}), r0 = {:#x}\n", program.name, guest.shell().machine().abi().name,
             vmm::name_of(guest.shell().choice()), last.r0);
  fmt::print("{:>12}  instructions\n{:>12}  bytes of code, {:.2f} an instruction\n", program.instructions,
             program.code_bytes, program.code_bytes / count);
  fmt::print("{:>12.2f}  us to check and compile, {:.1f} ns an instruction\n", compile, compile * 1e3 / count);
  fmt::print("{:>12.2f}  us to load the whole object, its maps too\n", load);
  fmt::print("{:>12.2f}  us a call, {:.2f} exits\n", one, (between - before) / static_cast<double>(calls));
  fmt::print("{:>12.3f}  us a call in a batch of {}, {:.4f} exits\n", all / static_cast<double>(calls), calls,
             (exits() - warm) / static_cast<double>(calls * kRounds));
  if (o.machine.stat) print_stat(guest);
  return 0;
}

void add_program_options(CLI::App& sub, BpfOptions& o) {
  sub.add_option("OBJECT", o.object, "an eBPF object, as clang -target bpf makes it");
  sub.add_option("--raw", o.raw, "HEX or @FILE: bare instructions in place of an object, as hexadecimal digits");
  sub.add_option("--section", o.section, "the program of this section; else the object's first");
  sub.add_option("--arch", o.arch, "instruction set: x86-64 or arm64; else the host's")
      ->check(CLI::IsMember({"x86-64", "arm64"}));
}

void add_input_options(CLI::App& sub, BpfOptions& o) {
  add_machine_options(sub, o.machine);
  sub.add_option("--input", o.input, "FILE: r1 is the address of what it holds, r2 the length; else both are 0");
  sub.add_option("--input-hex", o.input_hex, "the same, as hexadecimal digits");
}

}  // namespace

void add_bpf(CLI::App& app, Action& action) {
  auto options = std::make_shared<BpfOptions>();
  CLI::App* bpf = app.add_subcommand("bpf", "eBPF functions as guests");
  bpf->require_subcommand(1);
  CLI::App* sub = bpf->add_subcommand("run", "Run a program and print its r0");
  sub->footer(
      "Prints r0 as 0x... in hexadecimal digits; what the program traces goes to standard error. The exit status is 0,\n"
      "128+N where the program did what signal N is for, 124 after --timeout, 126 for what is no program, 127 for no file.");
  add_program_options(*sub, *options);
  add_input_options(*sub, *options);
  sub->add_option("--output", options->output, "FILE that gets the input as the program left it");
  sub->callback([&action, options] { action = [options] { return run(*options); }; });

  sub = bpf->add_subcommand("disasm", "Show the compiled code, of both instruction sets");
  add_program_options(*sub, *options);
  sub->callback([&action, options] { action = [options] { return disassemble(*options); }; });

  sub = bpf->add_subcommand("bench", "What a program takes to be compiled and called");
  add_program_options(*sub, *options);
  add_input_options(*sub, *options);
  sub->add_option("--calls", options->calls, "how many, one by one and as a batch")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  sub->callback([&action, options] { action = [options] { return bench(*options); }; });
}

}  // namespace ramet::tools
