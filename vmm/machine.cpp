#include "vmm/machine.hpp"

#include <sys/random.h>

namespace ramet::vmm {

Machine::CodePlaces Machine::CodePlaces::draw() {
  CodePlaces places;
  // The pool was initialised long ago; should it fail, fixed addresses are only less hard to guess.
  if (getrandom(&places, sizeof places, GRND_NONBLOCK) != sizeof places) return {};
  return places;
}

Machine::Totals& Machine::Totals::operator+=(const Totals& t) {
  syscalls += t.syscalls, page_faults += t.page_faults, exceptions += t.exceptions, kicks += t.kicks;
  flushes += t.flushes, spurious += t.spurious, flush_exits += t.flush_exits;
  fills += t.fills, refills += t.refills, evictions += t.evictions, mappings += t.mappings;
  return *this;
}

void Machine::Totals::add(const VcpuCounters& c) {
  syscalls += c.syscalls, page_faults += c.page_faults, exceptions += c.exceptions, kicks += c.kicks;
  flushes += c.flushes, spurious += c.spurious, flush_exits += c.flush_exits;
}

}  // namespace ramet::vmm
