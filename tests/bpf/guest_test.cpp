// eBPF functions in a guest: what they are given and give back, what they may not do, and what becomes of the guest
// then.
#include "vmm/bpf/guest.hpp"

#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <map>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "tests/bpf/guest.hpp"
#include "tests/scaled.hpp"

namespace ramet::vmm::bpf {
namespace {

using namespace jit::test;
using enum Outcome::Kind;
using std::chrono::milliseconds;

TEST_P(BpfGuest, Adaptive_knows_what_a_fault_takes_where_it_defers) {
  Options o = options();
  o.techniques.exec_sync = mm::AddressSpace::ExecSync::Adaptive;
  const auto guest = Guest::create(o);
  ASSERT_TRUE(guest) << guest.error().message;
  EXPECT_EQ((*guest)->memory().exec_costs().fault > 0, (*guest)->shell().machine().needs_exec_sync());
}

TEST_P(BpfGuest, A_function_gets_its_input_and_gives_it_back) {
  const auto f = load_functions();
  for (const std::size_t length : {1u, 2u, 4096u, 100'000u, 3u}) {
    std::vector<std::byte> input(length);
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < length; ++i) input[i] = std::byte(i * 7), sum += std::uint8_t(i * 7);
    expect_returned(f.guest->call(f["sum"], input), sum);
    for (std::size_t i = 0; i < length; ++i) ASSERT_EQ(input[i], ~std::byte(i * 7));
  }
  const auto null = f.guest->load(program({mov_r(0, 1), alu_r(kOr, 0, 2), leave()}));
  expect_returned(f.guest->call(*null), 0);
  expect_returned(f.call("deep", {{1000}}), 3 + 3 + 4 + 4 + 2000);
}

TEST_P(BpfGuest, A_call_is_one_exit_and_so_is_a_batch) {
  const auto guest = make();
  const auto p = guest->load(program({mov(0, 5), leave()}));
  ASSERT_TRUE(p);
  std::vector<Call> batch(1000, Call{&*p, {}, {}});
  guest->call(batch);
  expect_returned(guest->call(*p), 5);
  std::uint64_t before = exits(*guest);
  for (int i = 0; i < 10; ++i) guest->call(*p);
  EXPECT_EQ(exits(*guest) - before, 10u);
  before = exits(*guest);
  guest->call(batch);
  EXPECT_LE(exits(*guest) - before, 2u);  // its list may be mapped again
  for (const Call& c : batch) expect_returned(c.outcome, 5);
}

TEST_P(BpfGuest, What_fails_in_a_batch_keeps_nobody_else_from_running) {
  const auto guest = make();
  const auto good = guest->load(program({load(kDw, 0, 1, 0), alu(kAdd, 0, 1), store(kDw, 1, 0, 0), leave()}));
  const auto bad = guest->load(program({mov(1, 0x500), load(kDw, 0, 1, 0), leave()}));
  std::vector<Words> words(20);
  std::vector<Call> batch;
  for (std::size_t i = 0; i < words.size(); ++i) {
    words[i].word[0] = i;
    batch.push_back({.program = i % 3 == 2 ? &*bad : &*good, .context = bytes_of(words[i]), .outcome = {}});
  }
  guest->call(batch);
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i % 3 == 2) {
      EXPECT_EQ(batch[i].outcome.kind, Fault);
      EXPECT_EQ(batch[i].outcome.address, 0x500u);
      EXPECT_NE(batch[i].outcome.detail.find("instruction 1"), std::string::npos) << batch[i].outcome.detail;
    } else {
      expect_returned(batch[i].outcome, i + 1);
      EXPECT_EQ(words[i].word[0], i + 1);
    }
  }
}

TEST_P(BpfGuest, Wild_programs_are_told_where_and_the_guest_goes_on) {
  const auto f = load_functions();
  struct {
    Code code;
    int signal;
    std::uint64_t address;
    const char* where;
  } const kWild[] = {
      {{mov(1, 0x1234), load(kW, 0, 1, 0), leave()}, SIGSEGV, 0x1234, "instruction 1"},
      {{mov(0, 0), mov(1, -8), store(kDw, 1, 0, 1), leave()}, SIGSEGV, ~std::uint64_t{7}, "instruction 2"},
      // Its return address, wherever that is.
      {{store(kDw, 10, -8, 1), mov_r(3, 10), mov(2, 0x10000), store(kDw, 3, 0, 2), store(kDw, 3, 8, 2),
        store(kDw, 3, 16, 2), store(kDw, 3, 24, 2), leave()},
       SIGSEGV,
       0x10000,
       "no program"},
  };
  for (const auto& w : kWild) {
    const auto p = f.guest->load(program(w.code));
    ASSERT_TRUE(p) << p.error().message;
    const auto outcome = f.guest->call(*p);
    EXPECT_EQ(outcome.kind, Fault);
    EXPECT_EQ(outcome.signal, w.signal) << outcome.detail;
    if (w.address < 1u << 20) {
      EXPECT_EQ(outcome.address, w.address) << outcome.detail;
    }
    EXPECT_NE(outcome.detail.find(w.where), std::string::npos) << outcome.detail;
  }
  // Code is not to be written.
  for (const auto& p : f.loaded.programs) {
    Words w{};
    const auto overwrite = f.guest->load(program([&] {
      Code code;
      wide(code, 1, 0, p.address);
      code.insert(code.end(), {store(kDw, 1, 0, 1), leave()});
      return code;
    }()));
    const auto outcome = f.guest->call(*overwrite, bytes_of(w));
    EXPECT_EQ(outcome.signal, SIGSEGV) << outcome.detail;
    EXPECT_EQ(outcome.address, p.address);
  }
  expect_returned(f.call("deep", {{1}}), 3 + 3 + 4 + 4 + 2);
}

TEST_P(BpfGuest, Programs_that_do_not_end_are_stopped) {
  auto o = options();
  o.timeout = milliseconds(1000);  // in which the others end on a busy host as well
  const auto f = load_functions(o);
  EXPECT_EQ(f.guest->call(f["loop"]).kind, TimedOut);
  std::vector<Call> batch(3, Call{&f["sum"], {}, {}});
  batch[1].program = &f["loop"];
  f.guest->call(batch);
  EXPECT_EQ(batch[0].outcome.kind, Returned);
  EXPECT_EQ(batch[1].outcome.kind, TimedOut);
  EXPECT_EQ(batch[2].outcome.kind, NotRun);
  expect_returned(f.call("deep", {{1}}), 3 + 3 + 4 + 4 + 2);
}

TEST_P(BpfGuest, Who_is_stopped_with_a_map_locked_locks_out_nobody) {
  auto o = options();
  o.timeout = milliseconds(1000);
  const auto f = load_functions(o);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(f.guest->call(f["busy"]).kind, TimedOut);
    expect_returned(f.call("hash", {{1, 1, std::uint64_t(i), 0}}), 0);
    expect_returned(f.call("hash", {{0, 1}}), std::uint64_t(i));
  }
  // A key or a value that is nowhere: the fault is in the helper, with the lock held.
  const Map& hash = f.map("hash");
  Code code;
  wide(code, 1, 0, hash.header);
  code.insert(code.end(), {store_immediate(kDw, 10, -8, 4242), mov_r(2, 10), alu(kAdd, 2, -8), mov(3, 0x700), mov(4, 0),
                           call(2), leave()});
  const auto bad_value = f.guest->load(program(code));
  ASSERT_TRUE(bad_value) << bad_value.error().message;
  const auto outcome = f.guest->call(*bad_value);
  EXPECT_EQ(outcome.kind, Fault);
  EXPECT_EQ(outcome.address, 0x700u) << outcome.detail;
  EXPECT_NE(outcome.detail.find("map_update_elem"), std::string::npos) << outcome.detail;
  expect_returned(f.call("hash", {{1, 2, 3, 0}}), 0);
  // A lock that a program has overwritten holds up the host no longer than a program.
  const std::uint32_t nobodys = 77, free = 0;
  ASSERT_TRUE(f.guest->memory().write(hash.header + offsetof(struct map, lock), key_of(nobodys)));
  EXPECT_EQ(f.guest->lookup(hash, key_of(std::uint64_t{2})).error(), EIO);
  ASSERT_TRUE(f.guest->memory().write(hash.header + offsetof(struct map, lock), key_of(free)));
  EXPECT_EQ(number_in(*f.guest->lookup(hash, key_of(std::uint64_t{2}))), 3u);
}

TEST_P(BpfGuest, Maps_hold_what_programs_and_the_host_put_there) {
  const auto f = load_functions();
  const Map& hash = f.map("hash");
  std::map<std::uint64_t, std::uint64_t> expected;
  std::mt19937_64 random(1);
  for (unsigned i = 0; i < ramet::test::scaled(3000, 500); ++i) {
    const std::uint64_t key = random() % 100, value = random(), flags = random() % 3;
    const bool there = expected.contains(key), full = expected.size() == 64;
    std::int64_t wanted = 0;
    switch (random() % 3) {
      case 0:
        wanted = flags == 1 && there ? -EEXIST : flags == 2 && !there ? -ENOENT : !there && full ? -E2BIG : 0;
        if (i % 2) {
          expect_returned(f.call("hash", {{1, key, value, flags}}), std::uint64_t(wanted));
        } else {
          const auto done = f.guest->update(hash, key_of(key), key_of(value), flags);
          ASSERT_EQ(done ? 0 : -done.error(), wanted);
        }
        if (wanted == 0) expected[key] = value;
        break;
      case 1:
        wanted = there ? 0 : -ENOENT;
        if (i % 2) {
          expect_returned(f.call("hash", {{2, key}}), std::uint64_t(wanted));
        } else {
          const auto done = f.guest->erase(hash, key_of(key));
          ASSERT_EQ(done ? 0 : -done.error(), wanted);
        }
        expected.erase(key);
        break;
      default: {
        const auto found = f.guest->lookup(hash, key_of(key));
        ASSERT_EQ(found.has_value(), there);
        if (found) {
          ASSERT_EQ(number_in(*found), expected[key]);
          expect_returned(f.call("hash", {{0, key}}), expected[key]);
        }
      }
    }
  }
  std::set<std::uint64_t> keys;
  std::vector<std::byte> key;
  for (auto next = f.guest->next(hash, {}); next; next = f.guest->next(hash, key)) {
    key = *next;
    ASSERT_TRUE(keys.insert(number_in(key)).second);
  }
  EXPECT_EQ(keys.size(), expected.size());
  const std::uint32_t beyond = 16;
  EXPECT_EQ(f.guest->lookup(f.map("array"), key_of(beyond)).error(), ENOENT);
  EXPECT_EQ(f.guest->update(f.map("array"), key_of(beyond), key_of(std::uint64_t{1})).error(), E2BIG);
  EXPECT_EQ(f.guest->lookup(f.map("array"), key_of(std::uint64_t{1})).error(), EINVAL);
}

TEST_P(BpfGuest, Rings_hand_over_records_in_order) {
  const auto f = load_functions();
  const Map& ring = f.map("ring");
  std::uint64_t written = 0, read = 0;
  for (int round = 0; round < static_cast<int>(ramet::test::scaled(200, 50)); ++round) {
    for (int i = 0; i < 7; ++i) {
      const bool thrown_away = i == 3;
      expect_returned(f.call("ring", {{1, thrown_away ? ~std::uint64_t{0} : written, 2 * written, thrown_away}}), 0);
      if (!thrown_away) ++written;
    }
    const auto records = f.guest->consume(ring);
    ASSERT_TRUE(records);
    for (const auto& r : *records) {
      ASSERT_EQ(r.size(), 16u);
      ASSERT_EQ(number_in(r), read);
      ASSERT_EQ(number_in(std::span(r).subspan(8)), 2 * read);
      ++read;
    }
  }
  EXPECT_EQ(read, written);
  std::uint64_t fitted = 0;
  while (f.call("ring", {{0, 1, 100, 0}}).r0 == 0) ++fitted;
  EXPECT_GE(fitted, 4096u / 112 - 2);
  EXPECT_EQ(f.call("ring", {{2, 1}}).r0, 4096u);
  EXPECT_EQ(f.guest->consume(ring)->size(), fitted);
  EXPECT_FALSE(f.guest->consume(f.map("hash")));
  // Positions are the programs' to write.
  const std::uint64_t nonsense = 1ull << 40;
  ASSERT_TRUE(f.guest->memory().write(ring.header + offsetof(struct map, produced), key_of(nonsense)));
  EXPECT_FALSE(f.guest->consume(ring));
}

TEST_P(BpfGuest, Many_threads_call_at_once) {
  const auto f = load_functions();
  constexpr unsigned kThreads = 8;
  const unsigned each_thread = ramet::test::scaled(300, 50);
  std::vector<std::thread> threads;
  std::atomic<unsigned> wrong{0};
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (unsigned i = 0; i < each_thread; ++i) {
        Words w{{i % 50}};
        const auto outcome = f.guest->call(f["count"], bytes_of(w));
        if (outcome.kind != Returned || outcome.r0 >= MOST_VCPUS) ++wrong;
        if (i % 50 == t) {  // programs come and go meanwhile
          const auto p = f.guest->load(program({mov(0, std::int32_t(t)), leave()}));
          if (!p || f.guest->call(*p).r0 != t) ++wrong;
          if (p) f.guest->unload(*p);
        }
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(wrong, 0u);
  const std::uint32_t first = 0;
  EXPECT_EQ(number_in(*f.guest->lookup(f.map("array"), key_of(first))), kThreads * each_thread);
  std::uint64_t each = 0, hashed = 0;
  for (std::uint32_t vcpu = 0; vcpu < MOST_VCPUS; ++vcpu)
    each += number_in(*f.guest->lookup(f.map("each"), key_of(first), vcpu));
  EXPECT_EQ(each, kThreads * each_thread);
  for (std::uint64_t key = 0; key < 50; ++key) hashed += number_in(*f.guest->lookup(f.map("hash"), key_of(key)));
  EXPECT_EQ(hashed, kThreads * each_thread);
}

TEST_P(BpfGuest, Forks_go_their_own_ways) {
  const auto f = load_functions();
  expect_returned(f.call("hash", {{1, 1, 11, 0}}), 0);
  auto child = f.guest->fork();
  ASSERT_TRUE(child) << child.error().message;
  const auto in_child = [&](std::string_view section, Words w) { return (*child)->call(f[section], bytes_of(w)); };
  expect_returned(in_child("hash", {{0, 1}}), 11);
  expect_returned(in_child("hash", {{1, 1, 22, 0}}), 0);
  expect_returned(f.call("hash", {{0, 1}}), 11);
  // The same place in both, other code.
  const auto ours = f.guest->load(program({mov(0, 100), leave()}));
  const auto theirs = (*child)->load(program({mov(0, 200), leave()}));
  ASSERT_TRUE(ours && theirs);
  EXPECT_EQ(ours->address, theirs->address);
  expect_returned(f.guest->call(*ours), 100);
  expect_returned((*child)->call(*theirs), 200);
  expect_returned(f.guest->call(*ours), 100);
  auto grandchild = (*child)->fork();
  ASSERT_TRUE(grandchild);
  child->reset();
  expect_returned((*grandchild)->call(*theirs), 200);
  Words none{};
  expect_returned((*grandchild)->call(f["deep"], bytes_of(none)), 3 + 3 + 4 + 4);
}

TEST_P(BpfGuest, Helpers_of_the_host_and_what_is_printed) {
  auto o = options();
  std::vector<std::string> lines;
  o.trace = [&](std::string_view line) { lines.emplace_back(line); };
  const auto f = load_functions(o);
  EXPECT_EQ(f.guest->call(f["trace"]).kind, Returned);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0], "-5 is text, 123456789ab");
  const Guest::Helper add = [](mm::AddressSpace&, const Guest::Arguments& a) {
    return a[0] + 10 * a[1] + 100 * a[2] + 1000 * a[3] + 10000 * a[4];
  };
  ASSERT_TRUE(f.guest->add_helper(1000, add));
  EXPECT_FALSE(f.guest->add_helper(1000, add));
  EXPECT_FALSE(f.guest->add_helper(1, add));
  EXPECT_FALSE(f.guest->add_helper(1 << 20, add));
  const auto p = f.guest->load(program({mov(1, 1), mov(2, 2), mov(3, 3), mov(4, 4), mov(5, 5), call(1000), leave()}));
  ASSERT_TRUE(p) << p.error().message;
  expect_returned(f.guest->call(*p), 54321);
  const std::uint64_t before = f.guest->call(f["time"]).r0, after = f.guest->call(f["time"]).r0;
  EXPECT_GT(before, 0u) << f.guest->call(f["time"]).detail;
  EXPECT_LE(before, after);
  std::set<std::uint64_t> random;
  for (int i = 0; i < 100; ++i) random.insert(f.guest->call(f["random"]).r0);
  EXPECT_GT(random.size(), 95u);
}

INSTANTIATE_TEST_SUITE_P(, BpfGuest, ::testing::ValuesIn(machines()),
                         [](const auto& test) { return name_of_kind(test.param); });

}  // namespace
}  // namespace ramet::vmm::bpf
