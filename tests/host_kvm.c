// host_kvm: ends with 0 if this machine has a usable KVM. Else says why not and ends with 77, a skipped test's status;
// or with 1 where KVM_REQUIRED is set, as in the emulated machines, which are there for the KVM in them.
#include "tests/host_kvm.h"

#include <stdlib.h>

int main(void) {
  const char* problem = host_kvm_problem();
  if (!problem) return 0;
  puts(problem);
  return getenv("KVM_REQUIRED") ? 1 : 77;
}
