// The code of eBPF functions in a guest: where it lies, how it moves while it runs, and what cannot be loaded.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "tests/bpf/guest.hpp"
#include "tests/scaled.hpp"

namespace ramet::vmm::bpf {
namespace {

using namespace jit::test;
using enum Outcome::Kind;

TEST_P(BpfGuest, Ten_thousand_programs_are_packed_and_go_again) {
  const int programs_made = static_cast<int>(ramet::test::scaled(10'000, 1'000));
  const auto guest = make();
  const auto before = guest->code_usage();
  std::vector<Program> programs;
  std::uint64_t bytes = 0;
  for (int i = 0; i < programs_made; ++i) {
    Code code = {mov(0, i)};
    for (int k = 0; k < i % 16; ++k)
      code.insert(code.end(), {mov_r(3, 0), alu(kMul, 3, 1 << 20), alu_r(kXor, 0, 3), alu_r(kXor, 0, 3)});
    code.push_back(leave());
    auto p = guest->load(program(std::move(code)));
    ASSERT_TRUE(p) << p.error().message;
    bytes += p->code_bytes;
    programs.push_back(std::move(*p));
  }
  const auto usage = guest->code_usage();
  EXPECT_EQ(usage.programs - before.programs, static_cast<std::uint64_t>(programs_made));
  EXPECT_LE(usage.blocks * mm::kBlockSize, mm::align_up(bytes * 12 / 10 + before.bytes, mm::kBlockSize));
  const Program& last = programs.back();
  EXPECT_LE(last.address + last.code_bytes - programs.front().address, bytes * 12 / 10) << bytes;
  std::vector<Call> batch;
  for (const Program& p : programs) batch.push_back({&p, {}, {}});
  guest->call(batch);
  for (int i = 0; i < programs_made; ++i) ASSERT_EQ(batch[std::size_t(i)].outcome.r0, std::uint64_t(i));
  EXPECT_EQ(guest->memory().counters().split_pmd, 0u);
  unsigned blocks = 0;
  guest->memory().dump([&](const mm::AddressSpace::Node& n) {
    for (const mm::Gva b : guest->code_blocks())
      blocks += !n.table && n.level == arch::Level::Pmd && n.start == b && n.attributes.execute && !n.attributes.write;
  });
  EXPECT_EQ(blocks, usage.blocks);
  std::ranges::shuffle(programs, std::mt19937(1));
  for (const Program& p : programs) guest->unload(p);
  EXPECT_EQ(guest->code_usage().programs, before.programs);
  EXPECT_EQ(guest->code_usage().blocks, before.blocks);
  // Where they were, whoever goes there traps.
  const auto outcome = guest->call(programs.front());
  EXPECT_EQ(outcome.kind, Fault);
  EXPECT_TRUE(outcome.signal == SIGTRAP || outcome.signal == SIGSEGV) << outcome.detail;
}

TEST_P(BpfGuest, A_program_in_the_place_of_another_is_the_one_that_runs) {
  const auto guest = make();
  const auto stays = guest->load(program({mov(0, 1), leave()}));
  mm::Gva where = 0;
  for (int i = 0; i < 50; ++i) {
    const auto p = guest->load(program({mov(0, i), leave()}));
    ASSERT_TRUE(p);
    if (i == 0) where = p->address;
    EXPECT_EQ(p->address, where);
    expect_returned(guest->call(*p), std::uint64_t(i));
    expect_returned(guest->call(*p), std::uint64_t(i));
    guest->unload(*p);
    EXPECT_EQ(guest->call(*p).signal, SIGTRAP);
  }
  expect_returned(guest->call(*stays), 1);
}

// Pages of code go to other frames, one by one and to either node, and come together again, while programs run there.
TEST_P(BpfGuest, Code_moves_while_it_runs) {
  for (const auto policy :
       {mm::AddressSpace::ExecSync::Eager, mm::AddressSpace::ExecSync::Lazy, mm::AddressSpace::ExecSync::Adaptive}) {
    auto o = options();
    o.techniques.exec_sync = policy;
    const auto guest = make(o);
    std::vector<Program> programs;
    for (int i = 0; i < static_cast<int>(ramet::test::scaled(500, 250)); ++i) {
      Code code = {mov(0, i)};
      for (int k = 0; k < 40; ++k) code.insert(code.end(), {alu(kMul, 0, 3), alu(kAdd, 0, k)});
      code.push_back(leave());
      auto p = guest->load(program(std::move(code)));
      ASSERT_TRUE(p);
      programs.push_back(std::move(*p));
    }
    const auto value_of = [](std::uint64_t v) {
      for (std::uint64_t k = 0; k < 40; ++k) v = v * 3 + k;
      return v;
    };
    std::atomic<bool> done{false};
    std::atomic<unsigned> calls{0}, wrong{0};
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 2; ++t)
      threads.emplace_back([&, t] {
        for (std::size_t i = t; !done; i = (i + 7) % programs.size(), ++calls) {
          const auto outcome = guest->call(programs[i]);
          if (outcome.kind != Returned || outcome.r0 != value_of(i)) ++wrong;
        }
      });
    const mm::Gva block = guest->code_blocks().front();
    std::uint64_t moved = 0;
    for (unsigned round = 0; round < ramet::test::scaled(6, 2) || calls < ramet::test::scaled(500, 100); ++round) {
      for (mm::Gva page = block; page < block + mm::kBlockSize; page += 5 * mm::kPageSize) {
        const auto done_now = guest->memory().migrate(
            {.address = page, .length = mm::kPageSize, .reason = mm::MoveReason::Numa, .node = round % 2});
        moved += done_now ? done_now->moved : 0;
      }
      EXPECT_EQ(guest->compact(), 1u);
    }
    done = true;
    for (auto& t : threads) t.join();
    EXPECT_EQ(wrong, 0u);
    EXPECT_GT(moved, 0u);
    EXPECT_GT(guest->memory().counters().merge_pmd, 0u);
    EXPECT_EQ(guest->memory().audit(), "");
  }
}

TEST_P(BpfGuest, What_cannot_be_loaded_says_why_and_leaves_nothing) {
  const auto guest = make();
  const auto usage = guest->code_usage();
  const auto refused = [&](Code code, std::string_view why) {
    const auto p = guest->load(program(std::move(code)));
    ASSERT_FALSE(p);
    EXPECT_NE(p.error().message.find(why), std::string::npos) << p.error().message;
    EXPECT_EQ(p.error().status, 126);
  };
  refused({mov(0, 1)}, "instruction 0");
  refused({call(77), leave()}, "instruction 0");
  refused({call(0x6fff), leave()}, "instruction 0");
  refused({raw(0xff), leave()}, "instruction 0");
  auto object = functions();
  EXPECT_FALSE(guest->load(object, "nowhere"));
  for (auto& m : object.maps)
    if (m.name == "ring") m.max_entries = 5000;
  EXPECT_FALSE(guest->load(object));
  for (auto& m : object.maps)
    if (m.name == "ring") m.type = 9;
  const auto loaded = guest->load(object);
  ASSERT_FALSE(loaded);
  EXPECT_NE(loaded.error().message.find("map ring: maps of type 9"), std::string::npos) << loaded.error().message;
  EXPECT_EQ(guest->code_usage().programs, usage.programs);
  std::vector<std::byte> huge(options().memory_bytes + 1);
  const auto p = guest->load(program({mov(0, 0), leave()}));
  EXPECT_EQ(guest->call(*p, huge).kind, Broken);
  expect_returned(guest->call(*p), 0);
}

}  // namespace
}  // namespace ramet::vmm::bpf
