// Small files of /proc/<pid>, and those of them that can be written.
#pragma once

#include <string>
#include <string_view>

#include "vmm/linux/files/synthetic.hpp"

namespace ramet::vmm {

struct Image;
class Thread;
class UserBuffers;

// The content of the file `name`, for thread `tid`. Errors: ENOENT.
OrErrno<std::string> attribute_content(const ProcContext&, const Image&, std::string_view name, int tid);
// write(2) to such a file. As on Linux each write is a value of its own, wherever the file's offset is.
std::int64_t write_attribute(Thread&, const OpenFile&, const UserBuffers&);

}  // namespace ramet::vmm
