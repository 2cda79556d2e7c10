// A guest whose program is the fuzzer's input: each time a thread of it is to run, the next bytes become an exit (a
// system call, a fault, an exception). Threads and processes that it makes get a part of the bytes each.
//
//   input:  mode | operation operation fork(length) [the child's bytes] operation ...
#pragma once

#include <signal.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>

#include "tests/fuzz/system_calls/values.hpp"
#include "vmm/machine.hpp"

namespace ramet::fuzz {

inline constexpr int kWakeSignal = SIGUSR1; // handled from the start, so that it ends what waits

// The state of one input, of all threads of the guest.
struct Run {
  std::span<const std::uint8_t> input;
  // Counts exits: a watcher that sees no change knows that the guest waits. Pairs with nothing.
  std::atomic<std::uint64_t> exits{0};
  std::mutex lock;                                          // guards what follows
  std::vector<std::shared_ptr<const mm::FrozenMemory>> layers;  // snapshots that keep pages inherited
};

// One thread of the guest.
class Script : public Values {
 public:
  // The guest's first thread: all of the input is its own.
  void begin(Run&);
  // Another, with the registers that its maker left it.
  void begin(Run&, const vmm::UserRegs&);
  bool begun() const { return run_ != nullptr; }

  // What the thread does next, in the memory of the machine that it runs on; fresh: the first exit there. While the VMM
  // serves it, one of the thread's allocations may fail.
  vmm::Exit next(mm::AddressSpace&, bool fresh, vmm::UserRegs&);

 private:
  vmm::Exit choose(mm::AddressSpace&, bool fresh, vmm::UserRegs&);
  vmm::Exit call(vmm::UserRegs& r, Word number, std::array<Word, 6> a);
  vmm::Exit setup_call(vmm::UserRegs& r);
  vmm::Exit ring_call(vmm::UserRegs& r, unsigned step);
  vmm::Exit last_setup_call(vmm::UserRegs& r);
  vmm::Exit fault();
  void ring_entry();
  void check_result(const vmm::UserRegs& r);

  vmm::Exit operation(vmm::UserRegs& r);  // from the next bytes. Precondition: there are some

  static constexpr unsigned kArenaSteps = 11, kFileSteps = 26, kMostExits = 2000;
  Run* run_ = nullptr;
  std::uint8_t mode_ = 0;
  unsigned setup_ = 0;  // steps of the set-up to come
  bool follow_ = false;  // something was opened to be used at once
  unsigned exits_ = 0, ends_ = 0, restarts_ = 0;
  long scarce_ = -1;  // allocations until one fails, while what comes next is served
  std::optional<Word> issued_;  // the call whose result is in the registers
};

// Ends the fuzzer with a sentence: a finding.
[[noreturn]] void finding(const std::string& what);

}  // namespace ramet::fuzz
