// What commands that continue a snapshot file have in common: its pages, and its memory in a microVM.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <vector>

#include "tools/run_options.hpp"
#include "vmm/snapshot/pager.hpp"

namespace ramet::tools {

// The limit it was saved with, in bytes.
std::uint64_t saved_memory(const vmm::snapshot::File&);

// The pages of a file, as they are touched, or all of them now: if asked for, if the host cannot do otherwise (people
// are told), or if the program could change the file, which lies in a share that it may write. A page that is found
// damaged later ends the command, with a message.
std::expected<std::shared_ptr<vmm::snapshot::Pager>, vmm::Failure> open_pages(
    const std::shared_ptr<const vmm::snapshot::File>&, const std::vector<vmm::Share>&, bool eager = false);

struct Restored {
  std::unique_ptr<vmm::Shell> shell;
  std::unique_ptr<vmm::Files> files;  // what it has mapped; kept as long as the shell
  std::vector<std::shared_ptr<mm::Bank>> banks;
};
// The file's memory in a shell of its own. From any thread. Errors: as restore_memory().
std::expected<Restored, vmm::Failure> restore(const std::shared_ptr<const vmm::snapshot::File>&,
                                              const std::shared_ptr<vmm::snapshot::Pager>&, const Prepared&);

}  // namespace ramet::tools
