// `ramet run`: a program to its end, the report to people and programs.
#include <CLI/CLI.hpp>

#include <memory>
#include <string>

#include "tools/commands.hpp"
#include "tools/report.hpp"
#include "tools/run_options.hpp"

namespace ramet::tools {
namespace {

struct RunCommandOptions {
  RunSettings run;
  std::string json;
};

int run(const RunCommandOptions& options, const CLI::App& sub) {
  const auto command = command_of(sub);
  if (!command) return refuse(command.error());
  const auto report = run_program(options.run, *command);
  if (!report) return refuse(report.error());
  if (!options.json.empty())
    if (auto written = write_report(options.json, *report, *command); !written) return refuse(written.error());
  return report->ending.status();
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  auto options = std::make_shared<RunCommandOptions>();
  CLI::App* sub = app.add_subcommand("run",
                                     "Run a Linux ELF program in a microVM: ramet run [OPTIONS] PROGRAM [ARG...]");
  sub->footer(
      "Everything from PROGRAM on goes to the program. The exit status is the program's own, 128+N for a\n"
      "fatal signal N, 124 after --timeout, 125 where ramet could not do its work, 126 and 127 as shells use them.");
  add_run_options(*sub, options->run);
  sub->add_option("--json", options->json, "write the same results to FILE");
  sub->callback([&action, sub, options] { action = [sub, options] { return run(*options, *sub); }; });
}

}  // namespace ramet::tools
