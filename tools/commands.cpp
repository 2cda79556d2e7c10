#include "tools/commands.hpp"

#include <CLI/CLI.hpp>

#include <cstdio>

namespace ramet::tools {

int run_command_line(int argc, char** argv, const char* version) {
  CLI::App app("Runs Linux programs as microVM guests without a guest kernel.", "ramet");
  app.require_subcommand(1);
  app.set_version_flag("--version", version);
  Action action;
  add_doctor(app, action);
  add_run(app, action);
  add_snapshot(app, action);
  add_inspect(app, action);
  add_bpf(app, action);
  add_bench(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    std::fprintf(stderr, "ramet: %s (see ramet --help)\n", e.what());
    return kCannot;
  }
  return action();
}

}  // namespace ramet::tools
