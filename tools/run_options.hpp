// What commands that run a program have in common: their options, PROGRAM [ARG...], and the run itself.
#pragma once

#include <expected>
#include <string>
#include <vector>

#include "vmm/run.hpp"

namespace CLI {
class App;
}

namespace ramet::tools {

struct RunSettings {
  std::string machine = "auto", memory = "512M", timeout, root, wx = "flip", exec_sync = "eager";
  std::vector<std::string> dirs, environment, without;
  bool stat = false, hardened = false;
};

// The options that say what a guest runs on. The settings outlive the command.
void add_machine_options(CLI::App& command, RunSettings&);
// All options of RunSettings. The settings outlive the command. Words from PROGRAM on are left to command_of().
void add_run_options(CLI::App& command, RunSettings&);

// Errors: there is no PROGRAM, or an unknown option before it.
std::expected<std::vector<std::string>, vmm::Failure> command_of(const CLI::App&);

// What the settings say, but for the program.
struct Prepared {
  vmm::RunOptions run;
  vmm::Techniques techniques;
  vmm::MachineChoice machine;
};
// Errors: settings that cannot be.
std::expected<Prepared, vmm::Failure> prepare(const RunSettings&);

// Sets PROGRAM and its arguments, and the program's instruction set unless a machine was named.
void set_program(Prepared&, const std::vector<std::string>& command);

// A shell for it. Says on standard error if there is a /dev/kvm that cannot be used and another machine was taken.
std::expected<std::unique_ptr<vmm::Shell>, vmm::Failure> make_shell(const Prepared&);

// Runs the options' program in the shell to its end, and prints why it ended and, with `stat`, the report. Once in a
// process. Errors: as vmm::run().
std::expected<vmm::Report, vmm::Failure> run_in(std::unique_ptr<vmm::Shell>, const vmm::RunOptions&, bool stat,
                                                const std::vector<std::string>& command);

// The same by settings and a command. Errors: as vmm::run(), and settings that cannot be.
std::expected<vmm::Report, vmm::Failure> run_program(const RunSettings&, const std::vector<std::string>& command,
                                                     vmm::Observer = {});

// A message to standard error; returns the status.
int refuse(const vmm::Failure&);

}  // namespace ramet::tools
