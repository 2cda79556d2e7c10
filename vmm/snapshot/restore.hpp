// Restoring: a snapshot file's memory into an empty microVM, its process into a new one. Files are hostile until proven
// otherwise: what is not checked here is checked where a guest could ask for the same.
#pragma once

#include <expected>
#include <memory>
#include <string>
#include <vector>

#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/snapshot/file.hpp"
#include "vmm/snapshot/pager.hpp"

namespace ramet::vmm::snapshot {

// Errors: the program is for another instruction set than that.
Status check_instruction_set(const File&, const arch::GuestAbi&);
// Errors: the program has seen features of a processor that this one has not.
Status check_processor(const File&, const Machine::Features&);

// The memory of the program, in an empty shell, on the pages that the pager has of the file. `files` has what it has
// mapped. Returns the banks that hold the pages: of the file, of its parent, ...; null where a file has none. Errors:
// damaged, something that was mapped cannot be had, no host memory.
std::expected<std::vector<std::shared_ptr<mm::Bank>>, Failure> restore_memory(const std::shared_ptr<const File>&,
                                                                              const std::shared_ptr<Pager>&, Shell&,
                                                                              Files& files);

// An id for the first process of a copy: none that the saved program had, and hardly one that another copy has.
// Libraries look whether it is another one to know that they have been copied, as after fork(2).
int id_of_copy(const File&);

// All else, into a process whose image has the memory already, and whose id is the copy's own; its first thread goes by
// the saved one as well. It becomes copy number `copy`, from 1 on; `arguments` are for ramet_guest.h's call. Returns
// its threads, for Process::run(). Errors: damaged, a file that cannot be opened again, arguments that the program does
// not take, too many threads.
std::expected<std::vector<std::unique_ptr<Thread>>, Failure> restore_process(const File&, Process&, unsigned copy,
                                                                             const std::vector<std::string>& arguments);

}  // namespace ramet::vmm::snapshot
