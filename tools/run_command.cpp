// `ramet run`: options to RunOptions, the report to people and programs.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tools/commands.hpp"
#include "tools/parse.hpp"
#include "tools/report.hpp"
#include "vmm/run.hpp"

namespace ramet::tools {
namespace {

struct Options {
  std::string machine = "auto", memory = "512M", timeout, root, wx = "flip", json;
  std::vector<std::string> dirs, environment, without;
  bool stat = false;
};

// "HOST:rw" or "HOST:ro" -> the directory and whether it may be written.
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

int refuse(const std::string& message, int status = kCannot) {
  fmt::print(stderr, "ramet: {}\n", message);
  return status;
}

int run(const Options& options, const std::vector<std::string>& command) {
  if (command.empty()) return refuse("run needs a PROGRAM (see ramet run --help)");
  if (options.machine == "soft") return refuse("this build has no software CPU; use --machine kvm");
  vmm::RunOptions run;
  run.program = command[0];
  run.arguments.assign(command.begin() + 1, command.end());
  run.environment = options.environment;
  for (const std::string& entry : run.environment)
    if (entry.find('=') == entry.npos || entry[0] == '=')
      return refuse(fmt::format("--env {} is not NAME=VALUE", entry));
  auto memory = parse_size(options.memory);
  if (!memory || *memory < vmm::kMinMemory || *memory > vmm::kMaxMemory)
    return refuse(fmt::format("--memory {} is not a size between 8M and 128G, such as 512M or 2G", options.memory));
  run.memory_bytes = *memory;
  if (!options.timeout.empty()) {
    run.timeout = parse_duration(options.timeout);
    if (!run.timeout || run.timeout->count() == 0)
      return refuse(fmt::format("--timeout {} is not a time such as 10s, 250ms or 2m", options.timeout));
  }
  if (!options.root.empty()) run.shares.push_back(parse_root(options.root));
  for (const std::string& dir : options.dirs) {
    vmm::Share share = parse_dir(dir);
    if (share.guest.empty() || share.guest[0] != '/')
      return refuse(fmt::format("--dir {}: the guest's path must be absolute; write HOST:/GUEST", dir));
    run.shares.push_back(share);
  }
  vmm::Techniques techniques;  // the others are not there yet: off in any case
  for (const std::string& name : options.without) {
    if (name == "speculative-faults") techniques.speculative_faults = false;
    if (name == "relaxed-flushes") techniques.relaxed_flushes = false;
    if (name == "huge-merge") techniques.huge_merge = false;
  }
  run.deny_wx = options.wx == "deny";
  std::error_code no_directory;  // the current directory was removed: the guest starts in /
  run.working_directory = std::filesystem::current_path(no_directory).string();

  auto shell = vmm::Shell::create(run.memory_bytes, techniques);
  if (!shell) return refuse(shell.error().message, shell.error().status);
  // The process ends with the run: the kernel takes VM and memory back at once, faster than piece by piece.
  static vmm::Shell* const left_to_the_kernel = shell->release();
  auto report = vmm::run(*left_to_the_kernel, run);
  if (!report) return refuse(report.error().message, report.error().status);
  if (!report->ending.message.empty()) refuse(report->ending.message);
  if (options.stat) print_report(*report, command);
  if (!options.json.empty())
    if (auto written = write_report(options.json, *report, command); !written) return refuse(written.error().message);
  return report->ending.status();
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("run", "Run a Linux ELF program in a microVM: ramet run [OPTIONS] PROGRAM [ARG...]");
  sub->footer("Everything from PROGRAM on goes to the program. The exit status is the program's own, 128+N for a\n"
              "fatal signal N, 124 after --timeout, 125 where ramet could not do its work, 126 and 127 as shells use them.");
  sub->add_option("--machine", options->machine, "auto: KVM where it serves the program's architecture")
      ->check(CLI::IsMember({"auto", "kvm", "soft"}))->capture_default_str();
  sub->add_option("--memory", options->memory, "limit; past it the guest's mmap fails with ENOMEM")->capture_default_str();
  sub->add_option("--timeout", options->timeout, "stop the guest after this time, such as 10s; status 124");
  sub->add_option("--root", options->root, "DIR[:rw]: what the guest has as /; read-only unless :rw");
  sub->add_option("--dir", options->dirs, "HOST[:GUEST[:ro]]: a further directory the guest may see")
      ->expected(1)->allow_extra_args(false)->take_all();
  sub->add_option("--env", options->environment, "NAME=VALUE: none inherited by default")
      ->expected(1)->allow_extra_args(false)->take_all();
  sub->add_option("--without", options->without, "switch a technique off (repeatable)")
      ->check(CLI::IsMember({"deferred-exec", "pinned-cow", "speculative-faults", "relaxed-flushes", "huge-merge"}))
      ->expected(1)->allow_extra_args(false)->take_all();
  sub->add_option("--wx", options->wx, "what a request for RWX memory gets")
      ->check(CLI::IsMember({"flip", "deny"}))->capture_default_str();
  sub->add_flag("--stat", options->stat, "print counters at the end");
  sub->add_option("--json", options->json, "write the same results to FILE");
  sub->prefix_command();
  sub->callback([&action, sub, options] {
    action = [sub, options] {
      auto command = sub->remaining();
      if (!command.empty() && command[0] == "--") command.erase(command.begin());
      else if (!command.empty() && command[0].starts_with('-'))  // CLI11 takes what it does not know for the PROGRAM
        return refuse(fmt::format("run has no option {} (see ramet run --help)", command[0]));
      return run(*options, command);
    };
  });
}

}  // namespace ramet::tools
