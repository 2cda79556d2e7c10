#include "tools/run_options.hpp"

#include <fmt/format.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <cstdio>
#include <filesystem>
#include <mutex>

#include "tools/parse.hpp"
#include "tools/report.hpp"
#include "tools/soft_program.hpp"
#include "vmm/linux/program/loader.hpp"

namespace ramet::tools {
namespace {

// Removes the suffix, if the text has it.
bool take_suffix(std::string& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) return false;
  text.resize(text.size() - suffix.size());
  return true;
}

vmm::Share parse_root(std::string text) {
  bool writable = take_suffix(text, ":rw");
  if (!writable) take_suffix(text, ":ro");
  return {.host = text, .guest = "/", .writable = writable};
}

vmm::Share parse_dir(std::string text) {
  bool writable = !take_suffix(text, ":ro");
  if (writable) take_suffix(text, ":rw");
  auto colon = text.find(':');
  if (colon == text.npos) {
    // Seen by the guest where it is on the host.
    std::error_code error;
    auto absolute = std::filesystem::absolute(text, error).lexically_normal();
    return {.host = text, .guest = error ? text : absolute.string(), .writable = writable};
  }
  return {.host = text.substr(0, colon), .guest = text.substr(colon + 1), .writable = writable};
}

}  // namespace

void add_machine_options(CLI::App& command, RunSettings& settings) {
  command
      .add_option(
          "--machine", settings.machine,
          "auto: KVM where it can be used, else a confined process of the host, which needs none; the software CPU for arm64 programs")
      ->check(CLI::IsMember({"auto", "kvm", "process", "soft"}))
      ->capture_default_str();
  command.add_flag("--hardened", settings.hardened,
                   "process machine: no thread that runs guest code may map memory (slower faults)");
  command.add_option("--memory", settings.memory, "limit; past it the guest's mmap fails with ENOMEM")
      ->capture_default_str();
  command.add_option("--timeout", settings.timeout, "stop the guest after this time, such as 10s; status 124");
  command.add_option("--without", settings.without, "switch a technique off (repeatable)")
      ->check(CLI::IsMember({"deferred-exec", "pinned-cow", "speculative-faults", "relaxed-flushes", "huge-merge"}))
      ->expected(1)
      ->allow_extra_args(false)
      ->take_all();
  command
      .add_option("--exec-sync", settings.exec_sync,
                  "when fetches see what was written, where they do not by themselves: with each page that becomes "
                  "executable, when it is first fetched from, or as it turns out better")
      ->check(CLI::IsMember({"eager", "lazy", "adaptive"}))
      ->capture_default_str();
  command.add_flag("--stat", settings.stat, "print counters at the end");
}

void add_run_options(CLI::App& command, RunSettings& settings) {
  add_machine_options(command, settings);
  command.add_option("--root", settings.root, "DIR[:rw]: what the guest has as /; read-only unless :rw");
  command.add_option("--dir", settings.dirs, "HOST[:GUEST[:ro]]: a further directory the guest may see")
      ->expected(1)
      ->allow_extra_args(false)
      ->take_all();
  command.add_option("--env", settings.environment, "NAME=VALUE: none inherited by default")
      ->expected(1)
      ->allow_extra_args(false)
      ->take_all();
  command.add_option("--wx", settings.wx, "what a request for RWX memory gets")
      ->check(CLI::IsMember({"flip", "deny"}))
      ->capture_default_str();
  command.prefix_command();
}

std::expected<std::vector<std::string>, vmm::Failure> command_of(const CLI::App& sub) {
  auto command = sub.remaining();
  if (!command.empty() && command[0] == "--") command.erase(command.begin());
  else if (!command.empty() && command[0].starts_with('-'))  // CLI11 takes what it does not know for the PROGRAM
    return vmm::failure(fmt::format("{0} has no option {1} (see ramet {0} --help)", sub.get_name(), command[0]));
  if (command.empty()) return vmm::failure(fmt::format("{0} needs a PROGRAM (see ramet {0} --help)", sub.get_name()));
  return command;
}

std::expected<Prepared, vmm::Failure> prepare(const RunSettings& options) {
  Prepared prepared;
  if (options.machine == "kvm") prepared.machine.kind = vmm::MachineChoice::Kind::Kvm;
  if (options.machine == "process") prepared.machine.kind = vmm::MachineChoice::Kind::Process;
  if (options.machine == "soft") prepared.machine.kind = vmm::MachineChoice::Kind::Soft;
  prepared.machine.hardened = options.hardened;
  if (options.hardened && options.machine != "process" && options.machine != "auto")
    return vmm::failure("--hardened is of the process machine; leave it out, or use --machine process");
  vmm::RunOptions& run = prepared.run;
  run.environment = options.environment;
  for (const std::string& entry : run.environment)
    if (entry.find('=') == entry.npos || entry[0] == '=')
      return vmm::failure(fmt::format("--env {} is not NAME=VALUE", entry));
  auto memory = parse_size(options.memory);
  if (!memory || *memory < vmm::kMinMemory || *memory > vmm::kMaxMemory)
    return vmm::failure(
        fmt::format("--memory {} is not a size between 8M and 128G, such as 512M or 2G", options.memory));
  run.memory_bytes = *memory;
  if (!options.timeout.empty()) {
    run.timeout = parse_duration(options.timeout);
    if (!run.timeout || run.timeout->count() == 0)
      return vmm::failure(fmt::format("--timeout {} is not a time such as 10s, 250ms or 2m", options.timeout));
  }
  if (!options.root.empty()) run.shares.push_back(parse_root(options.root));
  for (const std::string& dir : options.dirs) {
    vmm::Share share = parse_dir(dir);
    if (share.guest.empty() || share.guest[0] != '/')
      return vmm::failure(fmt::format("--dir {}: the guest's path must be absolute; write HOST:/GUEST", dir));
    run.shares.push_back(share);
  }
  vmm::Techniques& techniques = prepared.techniques;
  if (options.exec_sync == "lazy") techniques.exec_sync = mm::AddressSpace::ExecSync::Lazy;
  if (options.exec_sync == "adaptive") techniques.exec_sync = mm::AddressSpace::ExecSync::Adaptive;
  for (const std::string& name : options.without) {
    if (name == "deferred-exec") techniques.exec_sync = mm::AddressSpace::ExecSync::Eager;
    if (name == "pinned-cow") techniques.pinned_cow = false;
    if (name == "speculative-faults") techniques.speculative_faults = false;
    if (name == "relaxed-flushes") techniques.relaxed_flushes = false;
    if (name == "huge-merge") techniques.huge_merge = false;
  }
  run.deny_wx = options.wx == "deny";
  std::error_code no_directory;  // the current directory was removed: the guest starts in /
  run.working_directory = std::filesystem::current_path(no_directory).string();
  return prepared;
}

void set_program(Prepared& prepared, const std::vector<std::string>& command) {
  prepared.run.program = command[0];
  prepared.run.arguments.assign(command.begin() + 1, command.end());
  // A machine that was named says itself which programs it does not run.
  if (prepared.machine.kind == vmm::MachineChoice::Kind::Auto)
    prepared.machine.abi = vmm::find_program_abi(prepared.run.shares, command[0]);
}

std::expected<std::unique_ptr<vmm::Shell>, vmm::Failure> make_shell(const Prepared& prepared) {
  use_soft_program(prepared.machine);
  auto shell = vmm::Shell::create(prepared.run.memory_bytes, prepared.techniques, prepared.machine);
  // Without a /dev/kvm nothing is amiss; with one, KVM may have been meant.
  if (shell && !(*shell)->passed_over().empty() && ::access("/dev/kvm", F_OK) == 0) {
    static std::once_flag once;  // many copies of a snapshot have a shell each
    std::call_once(once, [&] {
      fmt::print(stderr, "ramet: {}; the guest runs in a confined process\n", (*shell)->passed_over());
    });
  }
  return shell;
}

std::expected<vmm::Report, vmm::Failure> run_program(const RunSettings& settings,
                                                     const std::vector<std::string>& command, vmm::Observer observer) {
  auto prepared = prepare(settings);
  if (!prepared) return std::unexpected(prepared.error());
  set_program(*prepared, command);
  prepared->run.observer = std::move(observer);
  auto shell = make_shell(*prepared);
  if (!shell) return std::unexpected(shell.error());
  return run_in(std::move(*shell), prepared->run, settings.stat, command);
}

std::expected<vmm::Report, vmm::Failure> run_in(std::unique_ptr<vmm::Shell> shell, const vmm::RunOptions& run,
                                                bool stat, const std::vector<std::string>& command) {
  // The process ends with the run: the kernel takes VM and memory back at once, faster than piece by piece.
  static vmm::Shell* const left_to_the_kernel = shell.release();
  auto report = vmm::run(*left_to_the_kernel, run);
  if (!report) return report;
  if (!report->ending.message.empty()) refuse({.message = report->ending.message});
  if (stat) print_report(*report, command);
  return report;
}

int refuse(const vmm::Failure& failure) {
  fmt::print(stderr, "ramet: {}\n", failure.message);
  return failure.status;
}

}  // namespace ramet::tools
