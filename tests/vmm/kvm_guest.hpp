// What the tests of the KVM machine share: a micro-guest, and shorter ways to say what they do with it.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <map>
#include <memory>
#include <span>
#include <sstream>
#include <string>

#include "kvm_programs.hpp"  // those of this host
#include "tests/vmm/need_kvm.hpp"
#include "vmm/kvm/micro_guest.hpp"

namespace ramet::vmm::testing {

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
  s << name(e.kind) << " trap " << e.trap << " error " << e.error << std::hex << " address " << e.address << " "
    << e.detail;
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

  mm::Gva code(std::span<const programs::Instruction> program, std::uint64_t offset = 0) {
    return guest->load(std::as_bytes(program), offset);
  }
  mm::Gva code(std::initializer_list<programs::Instruction> program, std::uint64_t offset = 0) {
    return code(std::span(program.begin(), program.size()), offset);
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
  mm::Gpa write_entry(mm::Gva va, unsigned frame, const kvm::PageEntry& entry) {
    auto table = guest->map(va, guest->frame(frame), entry);
    EXPECT_TRUE(table) << table.error().message;
    if (entry) frames_[va] = frame;
    else frames_.erase(va);
    return *table;
  }
  // Writes an entry with a strict flush; with break-before-make where the processor needs it to change the frame.
  void change_entry(mm::Gva va, unsigned frame, const kvm::PageEntry& entry) {
    const auto old = frames_.find(va);
    if (programs::Entries::kBreakBeforeMake && entry && old != frames_.end() && old->second != frame)
      guest->flush(va, write_entry(va, frame, G::kAbsent));
    guest->flush(va, write_entry(va, frame, entry));
  }
  std::uint64_t* words(unsigned frame) { return guest->words(guest->frame(frame)); }

  std::unique_ptr<G> guest;

 private:
  std::map<mm::Gva, unsigned> frames_;  // of entries that are there
};

}  // namespace ramet::vmm::testing
