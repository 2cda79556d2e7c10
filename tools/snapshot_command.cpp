// `ramet snapshot`: programs saved to files, and continued from them.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tools/commands.hpp"
#include "tools/continue.hpp"
#include "tools/copies.hpp"
#include "tools/json_file.hpp"
#include "tools/parse.hpp"
#include "tools/report.hpp"
#include "tools/run_options.hpp"
#include "vmm/snapshot/restore.hpp"

namespace ramet::tools {
namespace {

using vmm::snapshot::File;
using vmm::snapshot::Saving;
using vmm::snapshot::to_text;

struct SaveSettings {
  RunSettings run;
  std::string when = "first-read", output, parent;
  bool compress = false, memory_given = false;
};

struct ContinueSettings {
  RunSettings run;
  std::string json;
  unsigned copies = 1, jobs = 1;
  bool memory_given = false, eager = false;
};

int save(SaveSettings& settings, const CLI::App& sub) {
  const bool continues = !settings.parent.empty();
  auto words = sub.remaining();
  std::expected<std::vector<std::string>, vmm::Failure> command = std::vector<std::string>{};
  if (!continues || !words.empty()) command = command_of(sub);
  if (!command) return refuse(command.error());
  auto prepared = prepare(settings.run);
  if (!prepared) return refuse(prepared.error());
  vmm::snapshot::SaveOptions options{.path = settings.output,
                                     .at_read = settings.when == "first-read",
                                     .hook = settings.when == "exit-hook" || settings.when == "first-read"
                                                 ? ""
                                                 : settings.when,
                                     .passed_reads = 0,
                                     .compress = settings.compress,
                                     .shares = {}};
  for (const vmm::Share& share : prepared->run.shares)
    options.shares.push_back(fmt::format("{}:{}:{}", share.host, share.guest, share.writable ? "rw" : "ro"));
  std::unique_ptr<vmm::Shell> shell;
  Restored restored;
  if (continues) {
    auto file = File::open(settings.parent);
    if (!file) return refuse(file.error());
    options.passed_reads = (*file)->state().at_hook ? 0 : 1;
    if (!settings.memory_given) prepared->run.memory_bytes = saved_memory(**file);
    prepared->run.from = *file;
    auto opened = Continuation(*file, *prepared).restore();
    if (!opened) return refuse(opened.error());
    restored = std::move(*opened);
    shell = std::move(restored.shell);
    prepared->run.arguments = *command;
    prepared->run.saving = std::make_shared<Saving>(options);
    prepared->run.saving->continues(*file, restored.banks);
  } else {
    set_program(*prepared, *command);
    prepared->run.saving = std::make_shared<Saving>(options);
    auto created = make_shell(*prepared);
    if (!created) return refuse(created.error());
    shell = std::move(*created);
  }
  const auto report = run_in(std::move(shell), prepared->run, settings.run.stat, *command);
  if (!report) return refuse(report.error());
  const auto& outcome = prepared->run.saving->outcome();
  if (outcome) return *outcome ? 0 : kCannot;  // run_in() has said why
  const std::string moment = settings.when == "first-read" ? "it read its input"
                                                           : fmt::format("it came to {}", settings.when);
  return refuse({.message = fmt::format("nothing was saved: the program ended (status {}) before {}",
                                        report->ending.status(), moment)});
}

int run(ContinueSettings& settings, const CLI::App& sub) {
  auto words = command_of(sub);
  if (!words) return refuse(words.error());
  auto prepared = prepare(settings.run);
  if (!prepared) return refuse(prepared.error());
  if (settings.copies == 0 || settings.jobs == 0)
    return refuse({.message = "--copies and --jobs are numbers from 1 on"});
  if (settings.copies > 1 && (settings.run.stat || !settings.json.empty()))
    return refuse({.message = "--stat and --json tell of one copy; they do not go with --copies"});
  auto file = File::open(words->front());
  if (!file) return refuse(file.error());
  if (!settings.memory_given) prepared->run.memory_bytes = saved_memory(**file);
  prepared->run.arguments.assign(words->begin() + 1, words->end());
  prepared->run.from = *file;
  Continuation continuation(*file, *prepared, settings.eager);
  if (settings.copies > 1) {
    const auto status = run_copies(settings.copies, settings.jobs, prepared->run,
                                   [&] { return continuation.restore(); });
    return status ? *status : refuse(status.error());
  }
  auto restored = continuation.restore();
  if (!restored) return refuse(restored.error());
  const auto report = run_in(std::move(restored->shell), prepared->run, settings.run.stat, *words);
  if (!report) return refuse(report.error());
  const auto counts = continuation.pager().counts();
  if (settings.run.stat)
    fmt::print(stderr, "{}",
               lines({{"snapshot:touched", counts.faults},
                      {"snapshot:blocks", counts.blocks},
                      {"snapshot:ahead", counts.ahead}}));
  continuation.pager().keep_working_set();
  if (!settings.json.empty())
    if (auto written = write_report(settings.json, *report, *words); !written) return refuse(written.error());
  return report->ending.status();
}

int info(const std::string& path) {
  const auto file = File::open(path);
  if (!file) return refuse(file.error());
  const auto& h = (*file)->header();
  const auto& s = (*file)->state();
  fmt::print("snapshot        version {}, {}\n", h.version, to_text(h.identity));
  if ((*file)->parent()) fmt::print("parent          {} ({})\n", s.parent, to_text(h.parent));
  fmt::print("saved at        {}{}\n", s.at_hook ? "the program's call " : "", s.when);
  fmt::print("program         {}\n", fmt::join(s.arguments, " "));
  fmt::print("processor       {}, {}\n", (*file)->abi().name, s.processor.model);
  std::uint64_t pages = 0, parents = 0;
  for (const auto& run : (*file)->runs()) (run.source ? parents : pages) += run.pages;
  fmt::print("memory          {} KiB here, {} KiB in parents, limit {} MiB\n", pages * 4, parents * 4,
             s.memory_bytes >> 20);
  fmt::print("file            {} KiB{}\n", h.file_bytes >> 10, h.compressed() ? ", compressed" : "");
  fmt::print("threads         {}\n", s.threads.size());
  for (const std::string& share : s.shares) fmt::print("share           {}\n", share);
  for (const auto& f : s.files)
    if (f.standard < 0 && !f.path.empty()) fmt::print("open            {}\n", f.path);
  return 0;
}

int verify(const std::string& path) {
  const auto file = File::open(path);
  if (!file) return refuse(file.error());
  const auto good = (*file)->verify();
  return good ? 0 : refuse(good.error());
}

void add_one(CLI::App& snapshot, Action& action, const char* name, const char* about, int (*what)(const std::string&)) {
  auto path = std::make_shared<std::string>();
  CLI::App* sub = snapshot.add_subcommand(name, about);
  sub->add_option("FILE", *path, "a snapshot file")->required();
  sub->callback([&action, path, what] { action = [path, what] { return what(*path); }; });
}

}  // namespace

void add_snapshot(CLI::App& app, Action& action) {
  CLI::App* snapshot = app.add_subcommand("snapshot", "Save a running program to a file, and continue it from there");
  snapshot->require_subcommand(1);

  auto saving = std::make_shared<SaveSettings>();
  CLI::App* sub = snapshot->add_subcommand("save",
                                           "Run a program up to some moment, and save it: "
                                           "ramet snapshot save [OPTIONS] -o FILE PROGRAM [ARG...]");
  sub->footer(
      "The program ends where it is saved. FILE is complete, or what it was before. A program of one process can be\n"
      "saved, with any number of threads; what cannot be had again (sockets, io_uring, memory files, files in the\n"
      "guest's own /tmp) is refused by name. Status 0: saved; 125: not, and why.");
  sub->add_option("--when", saving->when,
                  "first-read: when it first reads standard input, before it gets any; NAME: where it\n"
                  "calls ramet_snapshot(NAME), see ramet_guest.h; exit-hook: at the first such call")
      ->capture_default_str();
  sub->add_option("-o,--output", saving->output, "the snapshot file")->required();
  sub->add_option("--parent", saving->parent,
                  "continue this snapshot instead of a PROGRAM, and save only what has changed; "
                  "the new file needs it");
  sub->add_flag("--compress", saving->compress, "smaller, and slower to continue");
  add_run_options(*sub, saving->run);
  sub->callback([&action, sub, saving] {
    saving->memory_given = sub->count("--memory") > 0;
    action = [sub, saving] { return save(*saving, *sub); };
  });

  auto continuing = std::make_shared<ContinueSettings>();
  sub = snapshot->add_subcommand("run", "Continue a saved program: ramet snapshot run [OPTIONS] FILE [ARG...]");
  sub->footer(
      "Share what the program was run with (--root, --dir): what it has open is opened again by its path, and must be\n"
      "what it was. Each ARG goes to a program that was saved by ramet_snapshot_arguments(). The status is as for "
      "run.");
  add_run_options(*sub, continuing->run);
  sub->add_option("--copies", continuing->copies,
                  "so many programs go on from FILE, each with all of standard input; their output\n"
                  "comes in order, the status is the first that is not 0");
  sub->add_option("--jobs", continuing->jobs, "how many of them at a time");
  sub->add_flag("--eager", continuing->eager,
                "read and check all of FILE first, instead of what is touched when it is touched");
  sub->add_option("--json", continuing->json, "write the same results to FILE");
  sub->callback([&action, sub, continuing] {
    continuing->memory_given = sub->count("--memory") > 0;
    action = [sub, continuing] { return run(*continuing, *sub); };
  });

  add_one(*snapshot, action, "info", "What a snapshot file holds", info);
  add_one(*snapshot, action, "verify", "Check every byte of a snapshot file and its parents", verify);
}

}  // namespace ramet::tools
