// Pipes of a snapshot: those that the program made for itself, with what is in them.
#pragma once

#include <array>
#include <expected>
#include <memory>
#include <string>
#include <vector>

#include "vmm/linux/files/state.hpp"
#include "vmm/snapshot/file.hpp"
#include "vmm/snapshot/state.hpp"

namespace ramet::vmm::snapshot {

class PipesToSave {
 public:
  explicit PipesToSave(ProcessState& state) : state_(state) {}
  // Notes one end, and sets FileState::pipe. Errors: why it cannot be had again, to follow "its descriptor 3".
  std::expected<void, std::string> describe(const OpenFile&, FileState&);
  // Takes out what the pipes hold, so the program cannot go on. Errors: too much for a snapshot.
  std::expected<void, std::string> take_contents();

 private:
  struct Known {
    ino_t inode = 0;
    int reader = -1;                   // the host's; -1: the program cannot read from it
  };
  ProcessState& state_;
  std::vector<Known> known_;           // as ProcessState::pipes
};

class PipesToRestore {
 public:
  PipesToRestore(const File& file, const Files::State& files)
      : file_(file), files_(files), pipes_(file.state().pipes.size()) {}
  // One end, charged to the family. Errors: damaged, no room.
  std::expected<std::shared_ptr<OpenFile>, Failure> open(const FileState&);

 private:
  struct Pipe {
    HostFd end(int access);            // for another file, of that O_ACCMODE; none: errno says why
    HostFd reader, writer;             // until all files are there
    bool reader_taken = false, writer_taken = false;
    std::shared_ptr<FileCharge> charged;
  };
  Status make(Pipe&, const PipeState&);
  Status put_contents(Pipe&, const PipeState&, bool packets);

  const File& file_;
  const Files::State& files_;
  std::vector<Pipe> pipes_;
};

}  // namespace ramet::vmm::snapshot
