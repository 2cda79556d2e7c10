// Huge mappings that heal: pages of 1 GiB of blocks are made read-only and writable again, at random, with a few of
// them read-only at a time. With merging every block is back in the end; without it each stays in pages for good.
#include <benchmark/benchmark.h>

#include <deque>
#include <random>

#include "bench/engine.hpp"

namespace {

using namespace ramet::mm;
using namespace ramet::mm::bench;
using ramet::arch::Level;

constexpr std::uint64_t kGiB = 1 << 30, kBlocks = kGiB / kBlockSize;
constexpr unsigned kCycles = 100'000, kAtOnce = 64, kPoints = 10;

enum class Where { Region, Linear };  // a region of the guest's, or the linear map of its memory

struct Gigabyte : Engine {
  static constexpr Gva kLinear = 0x8000'0000'0000;
  const Where where;
  Gigabyte(Where w, AddressSpace::Config config) : Engine(config, kGiB), where(w) {
    if (where == Where::Region) map(kAt, kGiB, true);
    else check(space->map_linear(kLinear).has_value());
  }
  void change(std::uint64_t page, Prot prot) {
    if (where == Where::Region) protect(kAt + page * kPageSize, kPageSize, prot);
    else check(space->protect_linear(memory->data().base() + page * kPageSize, kPageSize, prot).has_value());
  }
  // In units of 2 MiB; a 1 GiB leaf is as good as 512 of them. The tables hold nothing else that large.
  std::uint64_t blocks() const {
    std::uint64_t bytes = 0;
    space->dump([&](const AddressSpace::Node& n) {
      if (!n.table && n.level >= Level::Pmd) bytes += ramet::arch::span_of(n.level);
    });
    return bytes / kBlockSize;
  }
};

void cycles(benchmark::State& state, Where where, bool merge, bool giants) {
  Gigabyte g(where, {.giants = giants, .merge = merge});
  const Counters& n = g.space->counters();
  check(g.blocks() == kBlocks);
  std::mt19937_64 random(1);
  std::deque<std::uint64_t> read_only;
  std::vector<bool> taken(kGiB / kPageSize);
  double spent = 0;
  for (auto _ : state) {
    for (unsigned point = 1; point <= kPoints; ++point) {
      spent += nanoseconds([&] {
        for (unsigned cycle = 0; cycle < kCycles / kPoints; ++cycle) {
          if (read_only.size() == kAtOnce) {
            g.change(read_only.front(), kReadWrite);
            taken[read_only.front()] = false;
            read_only.pop_front();
          }
          const std::uint64_t page = random() % (kGiB / kPageSize);
          if (taken[page]) continue;
          taken[page] = true;
          read_only.push_back(page);
          g.change(page, kRead);
        }
      });
      const std::string percent = std::to_string(100 * point / kPoints);
      state.counters["blocks_at_" + std::string(3 - percent.size(), '0') + percent + "_percent"] = double(g.blocks());
    }
    for (; !read_only.empty(); read_only.pop_front()) g.change(read_only.front(), kReadWrite);
  }
  g.space->flush_deferred();
  state.counters["ns_per_cycle"] = spent / (double(state.iterations()) * kCycles);
  state.counters["blocks_in_the_end"] = double(g.blocks());
  state.counters["table_pages"] = double(g.space->usage().table_pages);
  state.counters["split_pmd"] = double(n.split_pmd);
  state.counters["merge_pmd"] = double(n.merge_pmd);
  state.counters["split_pud"] = double(n.split_pud);
  state.counters["merge_pud"] = double(n.merge_pud);
  state.counters["flushes"] = double(n.flushes);
  state.counters["flushes_relaxed"] = double(n.flushes_relaxed);
}
BENCHMARK_CAPTURE(cycles, region, Where::Region, true, false)->Iterations(1);
BENCHMARK_CAPTURE(cycles, region_without_merge, Where::Region, false, false)->Iterations(1);
BENCHMARK_CAPTURE(cycles, linear, Where::Linear, true, false)->Iterations(1);
BENCHMARK_CAPTURE(cycles, linear_without_merge, Where::Linear, false, false)->Iterations(1);
BENCHMARK_CAPTURE(cycles, linear_1G, Where::Linear, true, true)->Iterations(1);
BENCHMARK_CAPTURE(cycles, linear_1G_without_merge, Where::Linear, false, true)->Iterations(1);

// One block into pages, and back. Split on demand, so without a change of regions.
void split_and_merge(benchmark::State& state) {
  Gigabyte g(Where::Region, {});
  Samples split, merge;
  for (auto _ : state) {
    std::uint64_t merged = 0;
    split.add(nanoseconds([&] {
                for (std::uint64_t b = 0; b < kBlocks; ++b) {
                  check(g.space->split(kAt + b * kBlockSize, kPageSize, Level::Pte).has_value());
                }
              }) /
              kBlocks);
    merge.add(nanoseconds([&] {
                for (std::uint64_t b = 0; b < kBlocks; ++b) merged += g.space->merge(kAt + b * kBlockSize, kBlockSize);
              }) /
              kBlocks);
    check(merged == kBlocks);
  }
  state.counters["split_ns"] = split.median();
  state.counters["merge_ns"] = merge.median();
}
BENCHMARK(split_and_merge)->Unit(benchmark::kMillisecond);

}  // namespace
