// What commands that continue a snapshot file have in common: its pages, and its memory in microVMs.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <vector>

#include "guest-mm/thread_annotations.hpp"
#include "tools/run_options.hpp"
#include "vmm/snapshot/pager.hpp"

namespace ramet::tools {

// The memory limit that the program was saved with, in bytes.
std::uint64_t saved_memory(const vmm::snapshot::File&);

struct Restored {
  std::unique_ptr<vmm::Shell> shell;
  std::unique_ptr<vmm::Files> files;  // by which the files that it has mapped were opened; kept as long as the shell
  std::vector<std::shared_ptr<mm::Bank>> banks;
};

// A file that is continued, once or by many copies at a time, which share its pages.
class Continuation {
 public:
  // `prepared` outlives it; unless a machine was named there, its ABI becomes the file's. Pages come as they are
  // touched, or all with the first restore(): if asked for (`eager`), if the host cannot do otherwise (a message says
  // so), or if the program could change the file, which lies in a share that it may write. A page that is found damaged
  // later ends the command, with a message.
  Continuation(std::shared_ptr<const vmm::snapshot::File> file, Prepared& prepared, bool eager = false);

  // The file's memory in a shell of its own. From any thread. Errors: as of Pager::create() and restore_memory().
  std::expected<Restored, vmm::Failure> restore();
  // After a restore() that had no error.
  vmm::snapshot::Pager& pager() const { return *pager_; }

 private:
  vmm::Status open_pages(bool files);
  const std::shared_ptr<const vmm::snapshot::File> file_;
  const Prepared& prepared_;
  const bool eager_;
  Mutex opening_;  // held while the first restore() sets pager_, which is read without it afterwards
  std::shared_ptr<vmm::snapshot::Pager> pager_;
};

}  // namespace ramet::tools
