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

// The content of smaps. Errors: ENOMEM past kMostMaps.
OrErrno<std::string> smaps(const mm::AddressSpace&);
// The content of smaps_rollup.
std::string smaps_rollup(const mm::AddressSpace&);

// read(2) of mem or pagemap, whose content is made when it is read. `offset` may be kCurrentOffset. None: it is another
// file.
std::optional<std::int64_t> read_process_memory(Thread&, const OpenFile&, const UserBuffers&, std::int64_t offset);

}  // namespace ramet::vmm
