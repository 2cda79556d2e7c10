// The host probe: that it finds things out by trying, and says what to do.
#include <gtest/gtest.h>

#include <algorithm>

#include "arch/host_processor.hpp"
#include "arch/x86_64/guest_abi.hpp"
#include "tests/vmm/need_kvm.hpp"
#include "vmm/kvm/device.hpp"
#include "vmm/probe.hpp"

namespace ramet::vmm::testing {
namespace {

const bool kX86 = &arch::host_abi() == &arch::x86_64::kGuestAbi;

const Finding* find(const std::vector<Finding>& all, std::string_view name) {
  auto i = std::ranges::find(all, name, &Finding::name);
  return i == all.end() ? nullptr : &*i;
}

TEST(Probe, AWorkingHostIsFoundToWork) {
  NEED_KVM();
  HostFacts f = probe_host();
  ASSERT_TRUE(f.kvm) << f.kvm_problem;
  EXPECT_TRUE(f.flush_works);
  EXPECT_GT(f.max_vcpus, 0u);
  EXPECT_GT(f.max_memslots, 0u);
  EXPECT_FALSE(f.cpu_model.empty());
  // SYSCALL that stays in ring 3 is a sign of shadow paging, and so is not seeing the host's writes.
  if (kX86 && !f.syscall_enters_ring0) {
    EXPECT_TRUE(f.ring3_native);
  }
}

TEST(Probe, WithoutKvmTheProblemAndTheWayOutAreNamed) {
  HostFacts f = probe_host("/nonexistent/kvm");
  EXPECT_FALSE(f.kvm);
  auto all = findings(f);
  const Finding* found = find(all, "KVM");
  ASSERT_NE(found, nullptr);
  EXPECT_FALSE(found->ok);
  EXPECT_EQ(found->required, !f.process) << "a confined process serves as well";
  EXPECT_NE(found->advice.find(kvm::kHowToHaveKvm), found->advice.npos) << found->advice;
  EXPECT_EQ(find(all, "SYSCALL"), nullptr) << "nothing is said about what was not tried";
}

TEST(Probe, EveryLackComesWithAdviceAndNothingElseDoes) {
  HostFacts bad;
  bad.kvm = true;  // and all that a host could lack lacking
  bad.process_problem = "forbidden";
  HostFacts good;
  good.kvm = good.process = good.flush_works = good.sse42 = good.avx = good.userfaultfd = good.io_uring = true;
  good.max_vcpus = good.max_memslots = 4096;
  good.clock = HostFacts::Clock::Read;
  good.huge_anonymous = "madvise", good.huge_shared = "advise";
  good.memlock = ~0ull, good.max_map_count = 65530;
  for (const Finding& f : findings(bad)) EXPECT_EQ(f.ok, f.advice.empty()) << f.name;
  for (const Finding& f : findings(good)) {
    EXPECT_TRUE(f.ok) << f.name;
    EXPECT_TRUE(f.advice.empty()) << f.name;
  }
  std::vector<const char*> names = {"confined process",
                                    "strict flush",
                                    "virtual CPUs",
                                    "memory slots",
                                    "userfaultfd",
                                    "io_uring",
                                    "huge pages, anonymous memory",
                                    "huge pages, shared memory",
                                    "locked memory",
                                    "mappings of a process"};
  if (kX86) names.insert(names.end(), {"time in guests", "SSE4.2 in guests", "AVX in guests"});
  for (const char* name : names) {
    auto all = findings(bad);
    const Finding* f = find(all, name);
    ASSERT_NE(f, nullptr) << name;
    EXPECT_FALSE(f->ok) << name;
  }
}

}  // namespace
}  // namespace ramet::vmm::testing
