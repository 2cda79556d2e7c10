// libFuzzer's target over AddressSpace: the input's bytes are what a tree of VMs does, beside the model that says what
// each must see (tests/guest-mm/tree.hpp). The first record chooses what is switched on and what is scarce.
#include <cstdlib>

#include "tests/guest-mm/tree.hpp"

namespace ramet::mm::test {
namespace {

// What a test only notes, a fuzzer must die of.
class Fatal : public ::testing::EmptyTestEventListener {
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "%s:%d: %s\n", result.file_name(), result.line_number(), result.message());
    std::abort();
  }
};

}  // namespace
}  // namespace ramet::mm::test

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
  delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new ramet::mm::test::Fatal);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  ramet::mm::test::run_tree({bytes, size});
  return 0;
}
