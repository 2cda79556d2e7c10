// Forwards signals of the host to a guest while it runs, as if it had been started directly.
#pragma once

#include <signal.h>

#include <array>

namespace ramet::vmm {

class Process;

// Only one program of a host process gets them: the first that runs.
class ForwardSignals {
 public:
  explicit ForwardSignals(Process&);
  ~ForwardSignals();
  ForwardSignals(const ForwardSignals&) = delete;
  ForwardSignals& operator=(const ForwardSignals&) = delete;

  // Returns when every handler that had begun has ended: what one of them may have found is not used any more.
  static void wait_for_handlers();

 private:
  static constexpr std::array kForwarded{SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGCONT};
  bool mine_ = false;
  std::array<struct sigaction, kForwarded.size()> old_;
  struct sigaction old_pipe_;
};

}  // namespace ramet::vmm
