#include "tools/exec_migration.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>

#include "guest-mm/address_space.hpp"
#include "jit/entry_code.hpp"
#include "tools/priced_processor.hpp"
#include "tools/soft_program.hpp"
#include "vmm/shell.hpp"

namespace ramet::tools {
namespace {

using mm::Gva, mm::kBlockSize, mm::kPageSize;
using Policy = mm::AddressSpace::ExecSync;
using Level = arch::Level;

// What one migration of M entries cost, and running N of them afterwards: nanoseconds, and events.
struct Cost {
  double migration = 0, execution = 0;
  double syncs = 0, faults = 0;
  double total() const { return migration + execution; }
  Cost& operator+=(const Cost& o) {
    migration += o.migration, execution += o.execution, syncs += o.syncs, faults += o.faults;
    return *this;
  }
  Cost each(double n) const { return {migration / n, execution / n, syncs / n, faults / n}; }
};

// The mean of so many migrations one after the other.
Cost on_model(const Prices& prices, Policy policy, Level level, std::uint64_t m, std::uint64_t n, unsigned rounds) {
  const std::uint64_t span = arch::span_of(level), bytes = mm::align_up(m * span, kBlockSize);
  PricedTlb tlb(prices);
  auto memory = mm::Memory::create(
      {.data_bytes = mm::align_up(2 * bytes + 64 * kBlockSize, kBlockSize), .table_bytes = 64 * kBlockSize});
  mm::AddressSpace::Config config;
  config.blocks = level == Level::Pmd;
  config.exec_sync = policy;
  config.exit_cost = static_cast<std::uint64_t>(prices.fault);
  if (level == Level::Pte) config.around_pages = 1;
  auto space = std::move(*mm::AddressSpace::create(config, **memory, tlb));
  const Gva at = 0x4000'0000;
  (void)space->map({.address = at, .length = bytes, .prot = mm::Prot::Read | mm::Prot::Exec, .fixed = true});
  if (config.blocks) (void)space->advise(at, bytes, mm::Advice::Huge);
  const auto fetch = [&](std::uint64_t entry) {
    const auto t = space->translate(at + entry * span, 0);
    if (t && t->execute) return;
    tlb.spend(prices.fault);
    (void)space->fault(at + entry * span, mm::Access::Execute);
  };
  for (std::uint64_t i = 0; i < m; ++i) fetch(i);
  const mm::Counters& c = space->counters();
  Cost sum;
  for (unsigned round = 0; round < rounds; ++round) {
    const double began = tlb.clock();
    const std::uint64_t syncs = c.exec_syncs, faults = c.exec_faults;
    const auto moved = space->migrate({.address = at, .length = m * span});
    tlb.spend(static_cast<double>(moved->moved) * static_cast<double>(kPageSize) / static_cast<double>(span) *
              (config.blocks ? prices.copy_block : prices.copy_page));
    const double migrated = tlb.clock();
    for (std::uint64_t i = 0; i < n; ++i) fetch((i * 7 + round) % m);
    sum += {migrated - began, tlb.clock() - migrated, static_cast<double>(c.exec_syncs - syncs),
            static_cast<double>(c.exec_faults - faults)};
  }
  return sum.each(rounds);
}

// The proposal's own tables.
Table seed_table(Level level, const std::vector<std::uint64_t>& sizes, const Progress& progress) {
  const bool blocks = level == Level::Pmd;
  Table t{.title = fmt::format("Model with the proposal's prices, pages of {}, all of them run: ms",
                               blocks ? "2 MiB" : "4 KiB"),
          .columns = {"pages", "move:eager", "move:lazy", "run:eager", "run:lazy"},
          .rows = {}};
  for (const std::uint64_t m : sizes) {
    progress(fmt::format("model, {} pages of {}", m, blocks ? "2 MiB" : "4 KiB"));
    const Cost eager = on_model(kSeed, Policy::Eager, level, m, m, 1),
               lazy = on_model(kSeed, Policy::Lazy, level, m, m, 1);
    t.rows.push_back(
        {std::to_string(m), ms(eager.migration), ms(lazy.migration), ms(eager.execution), ms(lazy.execution)});
  }
  t.plotted = {1, 2, 4};
  return t;
}

// Where lazy stops to pay, as a share N/M, by F < I * (M - N) / N.
double predicted(double sync, double fault) { return sync + fault > 0 ? sync / (sync + fault) : 0; }

// Where the measured lines cross; nothing: they do not.
std::optional<double> crossing(const std::vector<std::array<double, 3>>& share_eager_lazy) {
  for (std::size_t i = 1; i < share_eager_lazy.size(); ++i) {
    const auto& [x0, e0, l0] = share_eager_lazy[i - 1];
    const auto& [x1, e1, l1] = share_eager_lazy[i];
    const double before = l0 - e0, after = l1 - e1;
    if (before <= 0 && after > 0) return x0 + (x1 - x0) * before / (before - after);
  }
  return std::nullopt;
}

const std::vector<double> kShares = {0, 0.1, 0.25, 0.5, 0.75, 0.9, 1}, kFewShares = {0, 0.5, 1};

// N/M swept; `measure` gives the mean cost of one round.
template <class Measure>
Table sweep(std::string title, bool quick, std::uint64_t m, const Measure& measure, std::string (*unit)(double),
            const Progress& progress, std::optional<double> foreseen) {
  Table t{.title = std::move(title),
          .columns = {"N/M", "move:eager", "move:lazy", "run:eager", "run:lazy", "all:eager", "all:lazy",
                      "all:adaptive", "syncs:adapt", "faults:adapt"},
          .rows = {}};
  std::vector<std::array<double, 3>> lines;
  for (const double share : quick ? kFewShares : kShares) {
    progress(fmt::format("{}: {:.0f} %", t.title.substr(0, t.title.find(',')), share * 100));
    const auto n = static_cast<std::uint64_t>(share * static_cast<double>(m));
    const Cost eager = measure(Policy::Eager, n), lazy = measure(Policy::Lazy, n),
               adaptive = measure(Policy::Adaptive, n);
    lines.push_back({share, eager.total(), lazy.total()});
    t.rows.push_back({fmt::format("{:.2f}", share), unit(eager.migration), unit(lazy.migration), unit(eager.execution),
                      unit(lazy.execution), unit(eager.total()), unit(lazy.total()), unit(adaptive.total()),
                      fmt::format("{:.0f}", adaptive.syncs), fmt::format("{:.0f}", adaptive.faults)});
  }
  t.plotted = {5, 6, 7};
  const auto crossed = crossing(lines);
  const bool never = lines.front()[2] > lines.front()[1];
  t.notes.push_back(fmt::format("{}{}",
                                never ? "lazy pays nowhere"
                                      : "lazy pays up to N/M = " +
                                            (crossed ? fmt::format("{:.2f}", *crossed) : std::string("1, everywhere")),
                                foreseen ? fmt::format("; predicted by I / (I + F): {:.2f}", *foreseen) : ""));
  return t;
}

// --- the software CPU ---

constexpr unsigned kCodeBlocks = 200;  // basic blocks of a page

// add x0, x0, #1; b to the next instruction; and so on. At last it leaves, as programs in jit/ do.
std::vector<std::byte> page_of_blocks() {
  std::vector<std::uint32_t> words;
  for (unsigned i = 0; i < kCodeBlocks - 1; ++i) words.insert(words.end(), {0x91000400u, 0x14000001u});
  words.insert(words.end(), {0x52800008u | jit::kDone << 5, 0xd4000001u});  // mov w8, #kDone; svc #0
  const auto bytes = std::as_bytes(std::span(words));
  return {bytes.begin(), bytes.end()};
}

class SoftCode {
 public:
  static std::expected<std::unique_ptr<SoftCode>, vmm::Failure> create(Policy policy, std::uint64_t pages, bool again) {
    vmm::Techniques techniques;
    techniques.exec_sync = policy;
    vmm::MachineChoice choice;
    choice.kind = vmm::MachineChoice::Kind::Soft;
    auto shell = vmm::Shell::create(256ull << 20, techniques, choice);
    if (!shell) return std::unexpected(shell.error());
    auto code = std::unique_ptr<SoftCode>(new SoftCode);
    code->shell_ = std::move(*shell);
    code->pages_ = pages;
    code->again_ = again;
    auto& memory = code->shell_->memory();
    (void)memory.map(
        {.address = kAt, .length = (pages + 1) * kPageSize, .prot = mm::Prot::Read | mm::Prot::Exec, .fixed = true});
    (void)memory.advise(kAt, pages * kPageSize, mm::Advice::NoHuge);
    const auto page = page_of_blocks();
    for (std::uint64_t i = 0; i <= pages; ++i)
      if (auto written = memory.write_code(kAt + i * kPageSize, page); !written)
        return vmm::failure(std::string(mm::describe(written.error())));
    auto vcpu = code->shell_->machine().acquire_vcpu();
    if (!vcpu) return std::unexpected(vcpu.error());
    code->vcpu_ = *vcpu;
    for (std::uint64_t i = 0; i <= pages; ++i) code->run(i);
    return code;
  }
  ~SoftCode() {
    if (vcpu_) shell_->machine().release_vcpu(vcpu_);
  }

  Cost round(std::uint64_t n) {
    using Clock = std::chrono::steady_clock;
    const mm::Counters& c = shell_->memory().counters();
    const std::uint64_t syncs = c.exec_syncs, faults = c.exec_granted;
    const auto began = Clock::now();
    (void)shell_->memory().migrate({.address = kAt, .length = pages_ * kPageSize, .reason = mm::MoveReason::Numa});
    run(pages_);  // a page that has not moved: by entering, the vCPU drops what it was told to drop
    const auto migrated = Clock::now();
    for (std::uint64_t i = 0; i < n; ++i) run((i * 7 + turn_) % pages_);
    const auto ran = Clock::now();
    ++turn_;
    const Cost cost{std::chrono::duration<double, std::nano>(migrated - began).count(),
                    std::chrono::duration<double, std::nano>(ran - migrated).count(),
                    static_cast<double>(c.exec_syncs - syncs), static_cast<double>(c.exec_granted - faults)};
    if (again_)  // so that every page has code the next time
      for (std::uint64_t i = 0; i < pages_; ++i) run(i);
    return cost;
  }
  mm::ExecCosts costs() const { return shell_->memory().exec_costs(); }

 private:
  static constexpr Gva kAt = 0x4000'0000;
  SoftCode() = default;
  void run(std::uint64_t page) {
    const auto& abi = shell_->machine().abi();
    auto& r = vcpu_->regs();
    r = abi.initial_registers();
    r[abi.reg.pc] = kAt + page * kPageSize;
    for (;;) {
      const vmm::Exit e = vcpu_->run();
      if (e.kind == vmm::Exit::Kind::PageFault) {
        const auto done = shell_->memory().fault(e.address, e.access);
        if (!done) return;
        if (done->kind == mm::FaultOutcome::Kind::Spurious) vcpu_->spurious_fault();
      } else if (e.kind != vmm::Exit::Kind::Kicked) {
        return;
      }
    }
  }

  std::unique_ptr<vmm::Shell> shell_;
  vmm::Vcpu* vcpu_ = nullptr;
  std::uint64_t pages_ = 0, turn_ = 0;
  bool again_ = false;
};

std::optional<Table> soft_table(bool quick, const Progress& progress) {
  const std::uint64_t pages = quick ? 16 : 128;
  const unsigned rounds = quick ? 3 : 9;
  mm::ExecCosts seen;
  std::optional<vmm::Failure> failed;
  const auto measure = [&](Policy policy, std::uint64_t n) {
    auto code = SoftCode::create(policy, pages, true);
    if (!code) {
      failed = code.error();
      return Cost();
    }
    // The first rounds, before which the policy knows nothing, do not count; the median of the others, as times jitter.
    for (int i = 0; i < 2; ++i) (void)(*code)->round(n);
    std::vector<Cost> all;
    for (unsigned i = 0; i < rounds; ++i) all.push_back((*code)->round(n));
    std::ranges::nth_element(all, all.begin() + rounds / 2, {}, &Cost::total);
    if (policy == Policy::Lazy && n == pages) seen = (*code)->costs();
    return all[rounds / 2];
  };
  Table t = sweep(
      fmt::format("Software CPU, {} pages of {} blocks of code: us a page", pages, kCodeBlocks), quick, pages,
      [&](Policy policy, std::uint64_t n) { return measure(policy, n).each(static_cast<double>(pages)); }, us, progress,
      std::nullopt);
  if (failed) {
    progress(fmt::format("left out on the software CPU: {}", failed->message));
    return std::nullopt;
  }
  t.notes.push_back(fmt::format("measured here: I = {:.2f} us a page, F = {:.2f} us; predicted by I / (I + F): {:.2f}",
                                seen.sync / 1e3, seen.fault / 1e3, predicted(seen.sync, seen.fault)));
  t.notes.push_back(
      "code that may be run at once stays translated where the copy holds the same instructions; code that is withheld is dropped, and translated again");
  return t;
}

// What others have published, for the prediction.
Table published() {
  struct {
    const char* what;
    double sync, fault;
  } constexpr kCores[] = {
      {"the proposal's", kSeed.sync, kSeed.fault},
      {"Neoverse N1 (erratum 1542419)", kNeoverseN1.sync, kNeoverseN1.fault},
      {"cores with CTR_EL0.DIC", 0, kSeed.fault},
      {"x86-64", 0, kSeed.fault},
  };
  Table t{.title = "Prediction for other processors: lazy pays while N/M is below I / (I + F)",
          .columns = {"I us/4K", "F us", "N/M", "N/M of 2 MiB"},
          .rows = {}};
  for (const auto& c : kCores) {
    t.rows.push_back({us(c.sync), us(c.fault), fmt::format("{:.2f}", predicted(c.sync, c.fault)),
                      fmt::format("{:.2f}", predicted(512 * c.sync, c.fault))});
    t.notes.push_back(fmt::format("row {}: {}{}", t.rows.size(), c.what,
                                  c.sync == 0 ? ", which need no sync: nothing is deferred there" : ""));
  }
  return t;
}

}  // namespace

std::vector<Table> exec_migration(bool quick, const Progress& progress) {
  vmm::MachineChoice soft;
  soft.kind = vmm::MachineChoice::Kind::Soft;
  use_soft_program(soft);
  std::vector<Table> tables;
  tables.push_back(seed_table(Level::Pte,
                              quick ? std::vector<std::uint64_t>{1000, 5000}
                                    : std::vector<std::uint64_t>{1000, 5000, 10000, 15000, 19900},
                              progress));
  tables.push_back(
      seed_table(Level::Pmd,
                 quick ? std::vector<std::uint64_t>{10, 30} : std::vector<std::uint64_t>{10, 30, 50, 100, 199},
                 progress));
  const unsigned rounds = 20;
  for (const Level level : {Level::Pte, Level::Pmd}) {
    const std::uint64_t m = level == Level::Pte ? (quick ? 1000 : 10000) : (quick ? 16 : 100);
    const double pages = static_cast<double>(arch::span_of(level)) / kPageSize;
    tables.push_back(sweep(
        fmt::format("Model, {} pages of {} moved {} times: ms each", m, level == Level::Pte ? "4 KiB" : "2 MiB",
                    rounds),
        quick, m, [&](Policy policy, std::uint64_t n) { return on_model(kSeed, policy, level, m, n, rounds); }, ms,
        progress, predicted(pages * kSeed.sync, kSeed.fault)));
  }
  if (auto t = soft_table(quick, progress)) tables.push_back(std::move(*t));
  for (auto& t : migration_workloads(quick, progress)) tables.push_back(std::move(t));
  tables.push_back(published());
  return tables;
}

}  // namespace ramet::tools
