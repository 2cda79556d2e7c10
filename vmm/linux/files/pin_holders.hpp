// What holds pins of a process's memory for longer than a system call: rings, gup_test, pages in pipes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/linux/files/operations.hpp"

namespace ramet::vmm {

class Process;

// Behind an open file, which other processes may share after a fork. It is in the Devices of each process whose memory
// it pins, and lets go as soon as the memory of one of these goes.
class PinHolder : public FileOperations {
 public:
  // Gives all pins back, having stopped what uses them. May be called again, and from any thread that serves the
  // guest. The file stays, and does nothing more.
  virtual void let_go() = 0;
  // Makes its host descriptor say whether there is something to read; see Uring::watch().
  virtual void refresh() {}
};

// What holders did, for all processes of a guest. Statistics.
struct DeviceCounters {
  std::atomic<std::uint64_t> submitted{0}, completed{0}, refused{0};  // entries; refused by us, not by the host
  std::atomic<std::uint64_t> async{0};  // completions after the enter that submitted them
  std::atomic<std::uint64_t> overflows{0};  // completions kept back because the guest's queue was full
  std::atomic<std::uint64_t> bytes{0};  // moved by reads and writes between files and pinned frames
  std::atomic<std::uint64_t> fixed{0};  // transfers by a buffer that is registered with the host
  std::atomic<std::uint64_t> fixed_plain{0};  // into registered buffers, by address: several host buffers, or none
  std::atomic<std::uint64_t> unregistered{0};  // buffers that the host would not register (RLIMIT_MEMLOCK)
};

// The holders of one process, and what bounds and counts them. Thread-safe. Rings keep it: other processes may have
// inherited them.
class Devices {
 public:
  Devices() = default;
  explicit Devices(const Devices& parent) : counters_(parent.counters_) {}  // of a forked process: nothing is held yet
  // Called before the holder pins memory of this process. Adding it once more has no effect.
  void add(const std::shared_ptr<PinHolder>&) RAMET_EXCLUDES(lock_);
  void let_go() RAMET_EXCLUDES(lock_);
  std::size_t known() RAMET_EXCLUDES(lock_) { return all().size(); }
  // Called before a wait for descriptors, which may be those of watched rings.
  void refresh() RAMET_EXCLUDES(lock_);

  // What rings cost the host besides guest memory, and its limits. Counts alone: they order no other access.
  static constexpr unsigned kMaxRings = 256, kMaxRequests = 1u << 16;
  std::atomic<unsigned> rings{0}, requests{0};
  std::atomic<bool> watched{false};  // some ring was watched: refresh() has something to do
  std::atomic<std::uint64_t> registered{0};  // bytes of registered buffers, of all rings

  DeviceCounters& counters() { return *counters_; }

 private:
  std::vector<std::shared_ptr<PinHolder>> all() RAMET_EXCLUDES(lock_);
  Mutex lock_;  // innermost
  std::vector<std::weak_ptr<PinHolder>> holders_ RAMET_GUARDED_BY(lock_);
  const std::shared_ptr<DeviceCounters> counters_ = std::make_shared<DeviceCounters>();
};

// Before the process's memory goes or is replaced: at its end, in execve.
void let_go_of_pins(Process&);

// By the names that people see; those that are not 0.
std::vector<std::pair<std::string, std::uint64_t>> device_counters(Process&);

}  // namespace ramet::vmm
