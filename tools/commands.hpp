// The subcommands of `ramet`. Each file adds one to the command line; what it runs returns the status.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace ramet::tools {

inline constexpr int kCannot = 125;  // ramet itself could not do its work

// The subcommand, to be run after the command line was parsed; returns the exit status.
using Action = std::function<int()>;

void add_bench(CLI::App& app, Action& action);
void add_bpf(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);
void add_inspect(CLI::App& app, Action& action);
void add_run(CLI::App& app, Action& action);
void add_snapshot(CLI::App& app, Action& action);

// Parses the command line, runs that subcommand and returns its status.
int run_command_line(int argc, char** argv, const char* version);

}  // namespace ramet::tools
