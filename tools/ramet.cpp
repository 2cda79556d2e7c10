// The `ramet` program: parses the command line and runs one subcommand.
#include <CLI/CLI.hpp>

#include <cstdio>

#include "tools/commands.hpp"
#include "tools/soft_program.hpp"
#ifdef RAMET_SOFT
#include "vmm/soft/provide.hpp"
#endif

int main(int argc, char** argv) {
#ifdef RAMET_SOFT
  ramet::vmm::provide_soft_engines();
#else
  ramet::tools::remember_arguments(argv);
#endif
  CLI::App app("Runs Linux programs as microVM guests without a guest kernel.", "ramet");
  app.require_subcommand(1);
  app.set_version_flag("--version", RAMET_VERSION);
  ramet::tools::Action action;
  ramet::tools::add_doctor(app, action);
  ramet::tools::add_run(app, action);
  ramet::tools::add_snapshot(app, action);
  ramet::tools::add_inspect(app, action);
  ramet::tools::add_bpf(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    std::fprintf(stderr, "ramet: %s (see ramet --help)\n", e.what());
    return ramet::tools::kCannot;
  }
  return action();
}
