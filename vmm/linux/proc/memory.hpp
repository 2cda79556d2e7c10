// What the files of /proc/<pid> tell of a process's memory, beyond maps.
#pragma once

#include <optional>
#include <string>

#include "vmm/linux/files/synthetic.hpp"

namespace ramet::mm {
class AddressSpace;
}

namespace ramet::vmm {

class Thread;
class UserBuffers;

// smaps; each region with what of it is there. Errors: ENOMEM, if it is too much text.
OrErrno<std::string> smaps(const mm::AddressSpace&);
// smaps_rollup: their sums.
std::string smaps_rollup(const mm::AddressSpace&);

// read(2) of mem or pagemap, which show what is at an offset when they are read. `offset`: kCurrentOffset or where.
// None: it is another file.
std::optional<std::int64_t> read_process_memory(Thread&, const OpenFile&, const UserBuffers&, std::int64_t offset);

}  // namespace ramet::vmm
