// SavePoints: the moments at which a process may be saved; snapshot/saving.hpp derives from it.
#pragma once

#include <string>

namespace ramet::vmm {

class Thread;
struct OpenFile;

class SavePoints {
 public:
  virtual ~SavePoints() = default;
  // The thread is about to read from the file, and holds no lock. True: the system call is to start again.
  virtual bool at_read(Thread&, const OpenFile&) = 0;
  // The program says that it may be saved now (ramet_guest.h).
  virtual void at_hook(Thread&, const std::string& name) = 0;
};

}  // namespace ramet::vmm
