// What the tests of the KVM machine share: a micro-guest, and shorter ways to say what they do with it.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <memory>
#include <sstream>
#include <string>

#include "arch/x86_64/user_state.hpp"
#include "tests/vmm/need_kvm.hpp"
#include "vmm/kvm/x86_64/micro_guest.hpp"

namespace ramet::vmm::testing {

using enum arch::x86_64::Register;
using enum arch::x86_64::Base;
using Kind = Exit::Kind;

// Runs on through kicks.
inline Exit run(Vcpu& v) {
  for (;;) {
    Exit e = v.run();
    if (e.kind != Kind::Kicked) return e;
  }
}

inline const char* name(Kind k) {
  static const char* const names[] = {"Syscall", "PageFault", "Exception", "Kicked", "HostFault", "Broken"};
  return names[unsigned(k)];
}

inline std::string describe(const Exit& e) {
  std::ostringstream s;
  s << name(e.kind) << " trap " << e.trap << " error " << e.error << std::hex << " address " << e.address
    << " " << e.detail;
  return s.str();
}

#define EXPECT_EXIT_KIND(exit, wanted) EXPECT_EQ((exit).kind, Kind::wanted) << describe(exit)
#define ASSERT_EXIT_KIND(exit, wanted) ASSERT_EQ((exit).kind, Kind::wanted) << describe(exit)

class KvmTest : public ::testing::Test {
 protected:
  using G = kvm::MicroGuest;
  static constexpr mm::Gva kCode = G::kCode, kData = G::kData, kStack = G::kStack;

  void SetUp() override {
    NEED_KVM();
    auto made = G::create();
    ASSERT_TRUE(made) << made.error().message;
    guest = std::move(*made);
  }

  mm::Gva code(std::initializer_list<std::uint8_t> bytes, std::uint64_t offset = 0) {
    return guest->load({bytes.begin(), bytes.size()}, offset);
  }
  Vcpu& vcpu() {
    auto v = guest->vcpu();
    if (!v) {
      ADD_FAILURE() << v.error().message;
      std::abort();
    }
    return **v;
  }
  // Writes an entry without a flush; the table page it is in.
  mm::Gpa write_entry(mm::Gva va, unsigned frame, std::uint64_t bits) {
    auto table = guest->map(va, guest->frame(frame), bits);
    EXPECT_TRUE(table) << table.error().message;
    return *table;
  }
  // With the strict flush.
  void change_entry(mm::Gva va, unsigned frame, std::uint64_t bits) { guest->flush(va, write_entry(va, frame, bits)); }
  std::uint64_t* words(unsigned frame) { return guest->words(guest->frame(frame)); }

  std::unique_ptr<G> guest;
};

}  // namespace ramet::vmm::testing
