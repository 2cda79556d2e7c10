// What a machine says of an exception of arm64 user code that is no system call and no page fault.
#pragma once

#include "arch/arm64/fault_signal.hpp"
#include "vmm/machine.hpp"

namespace ramet::vmm {

inline Exit exception_of(std::uint64_t esr, mm::Gva accessed, mm::Gva pc, mm::Gva sp) {
  using Address = arch::arm64::FaultSignal::Address;
  const arch::arm64::FaultSignal told = arch::arm64::fault_signal(esr);
  Exit e;
  e.kind = Exit::Kind::Exception;
  e.signal = told.signal, e.code = told.code;
  e.address = told.address == Address::Pc ? pc : told.address == Address::Sp ? sp : accessed;
  e.trap = arch::arm64::class_of(esr), e.error = esr;
  return e;
}

}  // namespace ramet::vmm
