// Open files of a snapshot: those that have a path are opened again by it. Others are made anew, with what they hold
// (event_files.hpp, pipes.hpp).
#pragma once

#include <expected>
#include <memory>
#include <string>

#include "vmm/linux/processes/process.hpp"
#include "vmm/snapshot/event_files.hpp"
#include "vmm/snapshot/file.hpp"
#include "vmm/snapshot/pipes.hpp"
#include "vmm/snapshot/state.hpp"

namespace ramet::vmm {
class Thread;
}

namespace ramet::vmm::snapshot {

// Puts the open files of a process that stands still into its state.
class FilesToSave {
 public:
  FilesToSave(Thread& first, ProcessState& state) : first_(first), state_(state), pipes_(state) {}
  // Index into ProcessState::files; each file is there once. Errors: why it cannot be had again, to follow "its
  // descriptor 3".
  std::expected<int, std::string> add(const std::shared_ptr<OpenFile>&);
  // Adds all files that the process has descriptors of. Pipes are emptied and timers read: the program cannot go on.
  // Errors: a file cannot be had again; which, and why.
  std::expected<void, std::string> add_descriptors();

 private:
  std::expected<FileState, std::string> describe(const OpenFile&);
  std::expected<void, std::string> describe_nameless(const OpenFile&, FileState&);
  std::expected<void, std::string> describe_named(const OpenFile&, FileState&);

  Thread& first_;
  ProcessState& state_;
  PipesToSave pipes_;
  KnownFiles known_;
};

// Opens a file that has a path. Errors: it is not shared now, is another one now or has changed.
std::expected<std::shared_ptr<OpenFile>, Failure> open_by_path(const File&, Files::State&, const FileState&);

// Gives a process that has only standard input, output and error the saved descriptors. Errors: damaged, a file that
// cannot be opened again, no room.
Status restore_descriptors(const File&, Process&);

}  // namespace ramet::vmm::snapshot
