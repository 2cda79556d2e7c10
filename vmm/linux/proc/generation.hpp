// The generation: how many snapshots a program has come through. Copies learn by it that they are copies
// (ramet_guest.h).
#pragma once

#include <memory>

#include "vmm/linux/files/files.hpp"

namespace ramet::vmm {

// As an eventfd: readable once in each copy, also where it was open when the program was saved.
inline constexpr const char* kGenerationDevice = "/dev/ramet_generation";

// `flags`: open(2)'s. Errors: EACCES (for writing), what eventfd(2) says.
OrErrno<std::shared_ptr<OpenFile>> open_generation(const Process&, int flags);

// Sends the process the signal that it asked for by ramet_generation_signal(). Called once, right before it goes on in
// a copy.
void tell_generation(Process&);

}  // namespace ramet::vmm
