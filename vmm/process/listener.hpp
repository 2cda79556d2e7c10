// The VMM's end of a guest thread's filter (seccomp_unotify(2)): the thread's RAMET_HAND_OVER arrives here, and a reply
// lets it go on. One call of the thread wakes the VMM and sleeps, and where the host knows how (Linux 6.6), on the same
// processor, as the other side is about to sleep: a hand-over costs half of two futexes'.
#pragma once

#include <chrono>
#include <cstdint>

namespace ramet::vmm::process {

class Listener {
 public:
  Listener() = default;
  explicit Listener(int descriptor);  // owns it from now on
  ~Listener();
  Listener(Listener&&) noexcept;
  Listener& operator=(Listener&&) noexcept;

  // Whether there is one, and the descriptor is a listener's.
  bool usable() const { return descriptor_ >= 0; }
  enum class Heard { Thread, Nothing, Gone };
  // Waits for the thread to hand over. Gone: it has ended.
  Heard wait(std::chrono::milliseconds);
  // Whether the thread has handed over, and not been let go.
  bool pending() const { return pending_; }
  // Lets the thread go. False: it did not wait. True does not mean that it goes on: a thread that is being stopped
  // misses the reply. In both cases it hands over again when it runs, and needs another reply.
  bool reply();
  // Whether there has been any reply that the thread may have missed.
  bool used() const { return used_; }

 private:
  int descriptor_ = -1;
  bool pending_ = false, used_ = false;
  std::uint64_t id_ = 0;  // of what is pending
};

}  // namespace ramet::vmm::process
