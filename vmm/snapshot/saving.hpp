// Saving: waits in a running process for the moment to save it, and writes the file.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmm/error.hpp"
#include "vmm/linux/processes/save_points.hpp"
#include "vmm/snapshot/file.hpp"

namespace ramet::mm {
class Bank;
}

namespace ramet::vmm {

class Thread;
struct OpenFile;

namespace snapshot {

struct SaveOptions {
  std::string path;                    // of the file
  bool at_read = false;                // at the first read of standard input; else where the program says so
  std::string hook;                    // by this name; empty: by any
  unsigned passed_reads = 0;           // such reads to let pass: 1 if the parent was saved at one, which restarts
  bool compress = false;
  std::vector<std::string> shares;     // for people, see ProcessState
};

// Saves one process, once. The program ends when it is saved, or cannot be.
class Saving : public SavePoints {
 public:
  explicit Saving(SaveOptions options) : options_(std::move(options)) {}

  // For a process that goes on from that file, whose pages lie in these banks (see restore_memory()): pages that have
  // not changed since are not written again. Called before it runs.
  void continues(std::shared_ptr<const File>, std::vector<std::shared_ptr<mm::Bank>>);

  bool at_read(Thread&, const OpenFile&) override;
  void at_hook(Thread&, const std::string& name) override;

  // Whether it was saved; nullopt: the moment never came. To be called after the process has ended.
  const std::optional<Status>& outcome() const { return outcome_; }

 private:
  void save(Thread&, bool hook, const std::string& when);
  Status write(Thread&, ProcessState&);

  const SaveOptions options_;
  std::shared_ptr<const File> parent_;
  std::vector<std::shared_ptr<mm::Bank>> banks_;
  std::atomic<unsigned> reads_{0};  // relaxed: only each number's uniqueness matters
  std::optional<Status> outcome_;  // written by the thread that saves, while all others are parked
};

}  // namespace snapshot
}  // namespace ramet::vmm
