// Memory of a layer whose pages come when they are asked for: whoever looks at one asks first, and for no more than
// that.
#include "guest-mm/page_source.hpp"

#include <array>

#include "guest-mm/pin.hpp"
#include "tests/guest-mm/late_pages.hpp"
#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class LateLayers : public ForEachFormat {
 protected:
  static constexpr Gva a = 0x1000'0000;
  static constexpr std::uint64_t kPages = 1024;
  // A VM that stands on such a layer.
  void restore(World& w, Region::Huge huge = Region::Huge::Never) {
    late = std::make_unique<LatePages>(*w.memory, kPages);
    Region region;
    region.start = a, region.end = a + kPages * kPageSize;
    region.prot = kReadWrite, region.max_prot = kAllProt, region.huge = huge;
    const Extent all{.start = a, .frame = late->base(), .pages = kPages};
    ASSERT_TRUE(w.as->restore(late->layer(), 0x7fff'0000'0000, {&region, 1}, {&all, 1}));
  }
  static void expect_bytes(AddressSpace& as, std::uint64_t page, std::uint64_t from, std::uint64_t bytes) {
    std::vector<std::byte> seen(bytes);
    ASSERT_TRUE(as.read(a + page * kPageSize + from, seen));
    for (std::uint64_t i = 0; i < bytes; ++i)
      ASSERT_EQ(seen[i], LatePages::byte_of(page + (from + i) / kPageSize)) << "byte " << i;
  }
  std::unique_ptr<LatePages> late;  // outlives who stands on it
};

RAMET_FOR_EACH_FORMAT(LateLayers);

TEST_P(LateLayers, What_the_VMM_reads_is_brought_and_nothing_else) {
  World w(GetParam());
  restore(w);
  expect_bytes(*w.as, 3, 4000, 200);
  EXPECT_EQ(late->brought(), 2u);
  std::vector<HostRange> out;
  ASSERT_EQ(w.as->gather(a + 100 * kPageSize + 5, kPageSize, Access::Read, out), kPageSize);
  EXPECT_EQ(late->brought(), 4u);
  for (const HostRange& range : out) EXPECT_TRUE(range.bytes.size());
  std::byte first;
  ASSERT_TRUE(out.front().bytes.read(0, {&first, 1}));
  EXPECT_EQ(first, LatePages::byte_of(100));
  out.clear();
  w.check();
}

TEST_P(LateLayers, What_is_copied_on_write_is_brought_before) {
  for (const auto huge : {Region::Huge::Never, Region::Huge::Always}) {
    World w(GetParam());
    restore(w, huge);
    ASSERT_TRUE(w.cpu().store(a + 7 * kPageSize, 1));
    ASSERT_TRUE(w.as->write(a + 600 * kPageSize, std::array<std::byte, 1>{}));
    EXPECT_LE(late->brought(), huge == Region::Huge::Always ? kPages : 2);
    expect_bytes(*w.as, 7, 8, kPageSize - 8);
    expect_bytes(*w.as, 600, 1, kPageSize - 1);
    w.check();
  }
}

// A word is pinned, and so the VM's own: copied, which brings it.
TEST_P(LateLayers, A_word_and_a_pin_have_what_was_brought) {
  World w(GetParam());
  restore(w);
  const auto word = w.as->word(a + 9 * kPageSize, Access::Read);
  ASSERT_TRUE(word);
  EXPECT_EQ(word->load(), 0x0101'0101u * std::to_integer<std::uint32_t>(LatePages::byte_of(9)));
  auto pin = w.as->pin(a + 20 * kPageSize, 64, Access::Read, AddressSpace::PinTerm::Long, 10);
  ASSERT_TRUE(pin);
  std::byte first;
  ASSERT_TRUE(pin->ranges().front().bytes.read(0, {&first, 1}));
  EXPECT_EQ(first, LatePages::byte_of(20));
  EXPECT_EQ(late->brought(), 2u);
}

// A child's view of the layer is a part of its parent's bank.
TEST_P(LateLayers, A_child_brings_pages_of_its_parents_layer) {
  Genet g(GetParam(), {});
  auto parent = g.make();
  restore(*parent);
  ASSERT_TRUE(parent->cpu().store(a, 1));
  auto child = g.child(*parent->as->freeze());
  expect_bytes(*child->as, 5, 0, kPageSize);
  ASSERT_TRUE(child->cpu().store(a + 50 * kPageSize, 1));
  expect_bytes(*child->as, 50, 8, kPageSize - 8);
  expect_bytes(*parent->as, 50, 0, kPageSize);
  const auto bank = child->memory->bank_of(late->base());
  EXPECT_NE(bank->there(late->base() + 5 * kPageSize, {late->base(), late->base() + kPages * kPageSize}).end, 0u);
  const Gpa absent = late->base() + 500 * kPageSize;
  const auto none = bank->there(absent, {late->base(), late->base() + kPages * kPageSize});
  EXPECT_EQ(none.start, none.end);
  child->check();
  parent->check();
}

}  // namespace
}  // namespace ramet::mm::test
