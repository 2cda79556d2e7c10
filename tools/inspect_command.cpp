// `ramet inspect`: a program's address space while it runs, and at its end.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "tools/commands.hpp"
#include "tools/continue.hpp"
#include "tools/dump.hpp"
#include "tools/json_file.hpp"
#include "tools/parse.hpp"
#include "tools/run_options.hpp"

namespace ramet::tools {
namespace {

struct InspectOptions {
  RunSettings run;
  bool start = false;
  std::string every, json;
};

// Shows the address space of a snapshot file, as a program that goes on from it finds it.
int inspect_file(const InspectOptions& options, const std::vector<std::string>& words) {
  if (words.size() > 1)
    return refuse({.message = fmt::format("inspect takes one FILE, and not {} (or --run PROGRAM)", words[1])});
  auto prepared = prepare(options.run);
  if (!prepared) return refuse(prepared.error());
  const auto file = vmm::snapshot::File::open(words.front());
  if (!file) return refuse(file.error());
  prepared->run.memory_bytes = saved_memory(**file);
  const auto restored = Continuation(*file, *prepared).restore();
  if (!restored) return refuse(restored.error());
  Dump dump = take_dump(restored->shell->memory());
  dump.ended = true;
  if (options.json.empty()) {
    std::fputs(to_text(dump).c_str(), stderr);
    return 0;
  }
  auto out = JsonArrayFile::create(options.json);
  if (!out) return refuse(out.error());
  (*out)->add(to_json(dump));
  const auto written = (*out)->finish();
  return written ? 0 : refuse(written.error());
}

int inspect(const InspectOptions& options, const CLI::App& sub) {
  const auto command = command_of(sub);
  if (!command) return refuse(command.error());
  if (!options.start) return inspect_file(options, *command);
  vmm::Observer observer;
  if (!options.every.empty()) {
    const auto every = parse_duration(options.every);
    if (!every || every->count() == 0) {
      return refuse({.message = fmt::format("--every {} is not a time such as 100ms or 1s", options.every)});
    }
    observer.every = *every;
  }
  std::unique_ptr<JsonArrayFile> file;
  if (!options.json.empty()) {
    auto created = JsonArrayFile::create(options.json);
    if (!created) return refuse(created.error());
    file = std::move(*created);
  }
  const auto begin = std::chrono::steady_clock::now();
  observer.look = [&](const mm::AddressSpace& space, bool ended) {
    Dump dump = take_dump(space);
    dump.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    dump.ended = ended;
    if (file) file->add(to_json(dump));
    else std::fputs(to_text(dump).c_str(), stderr);
  };
  const auto report = run_program(options.run, *command, std::move(observer));
  if (!report) return refuse(report.error());
  if (file)
    if (auto written = file->finish(); !written) return refuse(written.error());
  return report->ending.status();
}

}  // namespace

void add_inspect(CLI::App& app, Action& action) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* sub = app.add_subcommand(
      "inspect",
      "Show what a program's address space looks like: "
      "ramet inspect --run [OPTIONS] PROGRAM [ARG...], or what a snapshot FILE holds: ramet inspect [OPTIONS] FILE");
  sub->footer(
      "Regions with the leaves and page tables that map them, page tables by level, frames and counters, to\n"
      "standard error or FILE. Everything from PROGRAM on goes to the program. The exit status is as for run.");
  sub->add_flag("--run", options->start, "run PROGRAM, and show its address space at its end");
  sub->add_option("--every", options->every, "also show it while it runs, each time this has passed, such as 100ms");
  sub->add_option("--json", options->json, "write to FILE instead: an array, an element each time");
  add_run_options(*sub, options->run);
  sub->callback([&action, sub, options] { action = [sub, options] { return inspect(*options, *sub); }; });
}

}  // namespace ramet::tools
