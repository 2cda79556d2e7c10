// Signals of the host that are the guest's to handle while it runs, as if it had been started directly.
#pragma once

#include <signal.h>

#include <array>

namespace ramet::vmm {

class Process;

// One program of a host process gets them: the first that is running.
class ForwardSignals {
 public:
  explicit ForwardSignals(Process&);
  ~ForwardSignals();
  ForwardSignals(const ForwardSignals&) = delete;
  ForwardSignals& operator=(const ForwardSignals&) = delete;

  // What a handler found before this call it does not use any more afterwards.
  static void wait_for_handlers();

 private:
  static constexpr std::array kForwarded{SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGCONT};
  bool mine_ = false;
  std::array<struct sigaction, kForwarded.size()> old_;
  struct sigaction old_pipe_;
};

}  // namespace ramet::vmm
