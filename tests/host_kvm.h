// Whether this machine has a KVM that this user can use, found out by making a VM. A test that needs one is skipped
// where there is none, and by nothing else: not by a name, and not because ramet says so.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

// Null if there is one, or else why not, in one line. Running out of memory or of descriptors says nothing of KVM:
// the test then runs, and fails by what it lacks.
static inline const char* host_kvm_problem(void) {
  static char reason[160];
  const char* what = "open";
  int vm = -1;
  int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm >= 0) {
    what = "KVM_CREATE_VM";
    do vm = ioctl(kvm, KVM_CREATE_VM, 0);
    while (vm < 0 && errno == EINTR);
  }
  const int error = errno;
  if (kvm >= 0) close(kvm);
  if (vm >= 0) {
    close(vm);
    return NULL;
  }
  if (error == ENOMEM || error == EMFILE || error == ENFILE) return NULL;
  snprintf(reason, sizeof reason, "no usable KVM on this machine: /dev/kvm: %s: %s", what, strerror(error));
  return reason;
}
