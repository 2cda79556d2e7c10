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

// Errors: the program is for another instruction set than the ABI's.
Status check_instruction_set(const File&, const arch::GuestAbi&);
// Errors: the program has seen features of a processor that this one has not.
Status check_processor(const File&, const Machine::Features&);

// Makes the program's memory in an empty shell, from the pages that the pager has of the file. `files`: what is shared
// with the program, to open the files that it has mapped. Returns the banks that hold the pages: of the file, of its
// parent, ...; null where a file has none. Errors: damaged, a mapped file cannot be had, no host memory.
std::expected<std::vector<std::shared_ptr<mm::Bank>>, Failure> restore_memory(const std::shared_ptr<const File>&,
                                                                              const std::shared_ptr<Pager>&, Shell&,
                                                                              Files& files);

// An id for the first process of a copy: none that the saved program had, and hardly one that another copy has.
// Libraries know by another id that they have been copied, as after fork(2).
int id_of_copy(const File&);

// Restores all else, into a process whose image has the memory already and whose id is id_of_copy()'s; its first thread
// goes by the saved id as well. `copy`: the copy's number, from 1 on; `arguments`: for ramet_guest.h's call. Returns
// the process's threads, for Process::run(). Errors: damaged, a file that cannot be opened again, arguments that the
// program does not take, too many threads.
std::expected<std::vector<std::unique_ptr<Thread>>, Failure> restore_process(const File&, Process&, unsigned copy,
                                                                             const std::vector<std::string>& arguments);

}  // namespace ramet::vmm::snapshot
