// Entry formats against encodings written out from the manuals by hand.
#include <gtest/gtest.h>

#include "arch/arm64/entry.hpp"
#include "arch/x86_64/entry.hpp"

namespace ramet::arch {
namespace {

using X86 = x86_64::Stage1;
using Arm1 = arm64::Stage1;
using Arm2 = arm64::Stage2;

TEST(X86Entry, A_user_page_that_can_be_written_is_P_RW_US_A_D_and_NX) {
  EXPECT_EQ(X86::leaf(0x1'2345'6000, Level::Pte, {.write = true, .dirty = true}), 0x8000'0001'2345'6067);
}
TEST(X86Entry, A_user_code_page_has_no_NX) {
  EXPECT_EQ(X86::leaf(0x1'0000'0000, Level::Pte, {.execute = true}), 0x1'0000'0025);
}
TEST(X86Entry, A_block_sets_the_page_size_bit) {
  EXPECT_EQ(X86::leaf(0x1'0020'0000, Level::Pmd, {}), 0x8000'0001'0020'00a5);
  EXPECT_EQ(X86::leaf(0x1'4000'0000, Level::Pud, {}), 0x8000'0001'4000'00a5);
}
TEST(X86Entry, A_kernel_page_is_out_of_reach_for_user_code) {
  EXPECT_EQ(X86::leaf(0x5000, Level::Pte, {.execute = true, .user = false}), 0x5021);
}
TEST(X86Entry, A_table_allows_everything_so_that_leaves_decide) { EXPECT_EQ(X86::table(0x7000), 0x7027u); }

TEST(Arm64Stage1Entry, A_user_page_that_can_be_written_and_is_dirty) {
  // DBM 51, PXN 53, UXN 54, nG 11, AF 10, SH 11, AP[2:1] 01, page 11
  EXPECT_EQ(Arm1::leaf(0x1'2345'6000, Level::Pte, {.write = true, .dirty = true}), 0x0068'0001'2345'6f43);
}
TEST(Arm64Stage1Entry, A_clean_writable_page_leaves_the_first_write_to_the_hardware) {
  EXPECT_EQ(Arm1::leaf(0x1'2345'6000, Level::Pte, {.write = true}), 0x0068'0001'2345'6fc3);
}
TEST(Arm64Stage1Entry, User_code_is_never_executable_by_EL1) {
  EXPECT_EQ(Arm1::leaf(0x1'0000'0000, Level::Pte, {.execute = true}), 0x0020'0001'0000'0fc3);
}
TEST(Arm64Stage1Entry, A_block_has_type_01) {
  EXPECT_EQ(Arm1::leaf(0x1'0020'0000, Level::Pmd, {.execute = true}), 0x0020'0001'0020'0fc1);
}
TEST(Arm64Stage1Entry, A_kernel_page_is_global_and_never_executable_by_EL0) {
  EXPECT_EQ(Arm1::leaf(0x5000, Level::Pte, {.execute = true, .user = false}), 0x0040'0000'0000'5783);
}
TEST(Arm64Stage1Entry, A_table_has_type_11) { EXPECT_EQ(Arm1::table(0x7000), 0x7003u); }

TEST(Arm64Stage2Entry, A_page_that_can_be_written_and_is_dirty) {
  // DBM 51, XN 54, AF 10, SH 11, S2AP 11, MemAttr 1111, page 11
  EXPECT_EQ(Arm2::leaf(0x1'2345'6000, Level::Pte, {.write = true, .dirty = true}), 0x0048'0001'2345'67ff);
}
TEST(Arm64Stage2Entry, A_code_block_can_only_be_read_and_executed) {
  EXPECT_EQ(Arm2::leaf(0x1'0020'0000, Level::Pmd, {.execute = true}), 0x0000'0001'0020'077d);
}

template <class F>
class EveryFormat : public ::testing::Test {};
using Formats = ::testing::Types<X86, Arm1, Arm2>;
TYPED_TEST_SUITE(EveryFormat, Formats);

// All combinations of attributes that the format can tell apart.
template <class F, class Body>
void for_all_attributes(Body body) {
  for (unsigned bits = 0; bits < 128; ++bits) {
    const Attributes a{.write = (bits & 1) != 0,
                       .execute = (bits & 2) != 0,
                       .user = (bits & 4) != 0,
                       .accessed = (bits & 8) != 0,
                       .dirty = (bits & 16) != 0,
                       .deferred_exec = (bits & 32) != 0,
                       .ahead = (bits & 64) != 0};
    if (std::is_same_v<F, Arm2> && !a.user) continue;
    body(a);
  }
}

TYPED_TEST(EveryFormat, Attributes_address_and_level_survive_encoding) {
  for (const Level level : {Level::Pte, Level::Pmd, Level::Pud}) {
    const std::uint64_t pa = 0x12'3456'7000 & ~(span_of(level) - 1);
    for_all_attributes<TypeParam>([&](Attributes a) {
      const Entry e = TypeParam::leaf(pa, level, a);
      EXPECT_TRUE(TypeParam::present(e));
      EXPECT_TRUE(TypeParam::is_leaf(e, level));
      EXPECT_EQ(TypeParam::address(e, level), pa);
      EXPECT_EQ(TypeParam::attributes(e), a);
    });
  }
}
TYPED_TEST(EveryFormat, Changing_attributes_is_as_good_as_encoding_anew) {
  for_all_attributes<TypeParam>([](Attributes from) {
    for_all_attributes<TypeParam>([&](Attributes to) {
      EXPECT_EQ(TypeParam::with(TypeParam::leaf(0x1'0020'0000, Level::Pmd, from), to),
                TypeParam::leaf(0x1'0020'0000, Level::Pmd, to));
    });
  });
}
TYPED_TEST(EveryFormat, A_leaf_that_lost_writing_is_told_apart_from_nothing_but_other_leaves) {
  for_all_attributes<TypeParam>([](Attributes a) {
    const Entry e = TypeParam::leaf(0x1'0020'0000, Level::Pmd, a);
    a.write = false;
    EXPECT_EQ(TypeParam::stable_read_only(e), TypeParam::stable(TypeParam::with(e, a)));
  });
}
TYPED_TEST(EveryFormat, A_kept_entry_is_invisible_to_the_hardware_and_comes_back_whole) {
  for (const Level level : {Level::Pte, Level::Pmd, Level::Pud}) {
    for_all_attributes<TypeParam>([&](Attributes a) {
      const Entry e = TypeParam::leaf(0x1'4000'0000, level, a);
      const Entry kept_entry = kept(e);
      EXPECT_FALSE(TypeParam::present(kept_entry));
      EXPECT_TRUE(is_kept(kept_entry));
      EXPECT_EQ(restored(kept_entry), e);
      // No memory lies at the address that a processor speculating on the entry would see.
      EXPECT_GT(kept_entry & 0x000f'ffff'ffff'f000, 1ull << 47);
    });
  }
}
TYPED_TEST(EveryFormat, A_table_is_present_and_no_leaf) {
  const Entry e = TypeParam::table(0x12'3456'7000);
  for (const Level level : {Level::Pmd, Level::Pud, Level::Pgd}) {
    EXPECT_TRUE(TypeParam::present(e));
    EXPECT_FALSE(TypeParam::is_leaf(e, level));
    EXPECT_EQ(TypeParam::address(e, level), 0x12'3456'7000u);
  }
  EXPECT_FALSE(TypeParam::leaf_allowed(Level::Pgd));
  EXPECT_FALSE(TypeParam::present(kNone));
}

}  // namespace
}  // namespace ramet::arch
