// NEED_KVM(): the test, or the fixture's SetUp, goes on only where this machine has a usable KVM.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/host_kvm.h"

// Where KVM_REQUIRED is set, as in the emulated machines, its absence is a failure.
#define NEED_KVM()                                      \
  if (const char* problem = host_kvm_problem()) {       \
    if (std::getenv("KVM_REQUIRED")) FAIL() << problem; \
    GTEST_SKIP() << problem;                            \
  }                                                     \
  static_assert(true)
