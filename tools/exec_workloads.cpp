// Who wins for which reason to migrate: thousands of compiled programs as CodeSpace lays them out, of which requests
// call some often and most hardly ever (Zipf's law), and in between their pages move as each reason would have it. On
// the priced processor, where nothing jitters, and in guests of each machine that needs a sync.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <span>

#include "jit/code_space.hpp"
#include "jit/entry_code.hpp"
#include "tools/exec_migration.hpp"
#include "tools/priced_processor.hpp"
#include "vmm/bpf/guest.hpp"

namespace ramet::tools {
namespace {

using mm::Gva, mm::kBlockSize, mm::kPageSize, mm::MoveReason;
using Policy = mm::AddressSpace::ExecSync;

// A filter that hashes: some 1200 bytes of code, no two alike.
jit::Program filter(unsigned n) {
  constexpr std::uint8_t kMov = 0xb7, kMul = 0x27, kMovX = 0xbf, kRsh = 0x77, kXorX = 0xaf, kAdd = 0x07, kExit = 0x95;
  jit::Program p{.name = "filter", .section = {}, .instructions = {}};
  const auto add = [&p](std::uint8_t opcode, std::uint8_t registers, std::int32_t immediate) {
    p.instructions.push_back({opcode, registers, 0, immediate});
  };
  const auto number = static_cast<std::int32_t>(n);
  add(kMov, 0, number);
  for (int step = 0; step < 50; ++step) {
    add(kMul, 0, 0x5bd1e995 + 2 * number);
    add(kMovX, 0x02, 0);
    add(kRsh, 2, 15 + step % 16);
    add(kXorX, 0x20, 0);
    add(kAdd, 0, step * 77 + number);
  }
  add(kExit, 0, 0);
  return p;
}

// What has the programs: a model, or a guest.
class Host {
 public:
  virtual ~Host() = default;
  virtual mm::AddressSpace& memory() = 0;
  virtual void compact() = 0;
  virtual void call(std::span<const unsigned> programs) = 0;
  virtual double clock() const = 0;  // ns
  std::vector<jit::CodeSpace::Piece> programs;
  std::vector<Gva> blocks;
};

class Modelled final : public Host {
 public:
  Modelled(const Prices& prices, Policy policy, unsigned count) : prices_(prices), tlb_(prices) {
    memory_ = std::move(*mm::Memory::create({.data_bytes = 256ull << 20, .table_bytes = 16ull << 20}));
    mm::AddressSpace::Config config;
    config.exec_sync = policy;
    config.exit_cost = static_cast<std::uint64_t>(prices.fault);
    config.around_pages = 1;
    space_ = std::move(*mm::AddressSpace::create(config, *memory_, tlb_));
    code_ = std::make_unique<jit::CodeSpace>(*space_, jit::InstructionSet::Arm64, 0x4000'0000, 1ull << 30);
    for (unsigned i = 0; i < count; ++i) {
      const auto compiled = jit::compile(*jit::check(filter(i), {}), jit::InstructionSet::Arm64);
      programs.push_back({code_->place(compiled, jit::alignment(false), {}).value_or(0),
                          static_cast<std::uint32_t>(compiled.code().size())});
    }
    blocks = code_->blocks();
  }
  mm::AddressSpace& memory() override { return *space_; }
  void compact() override { code_->compact(); }
  double clock() const override { return tlb_.clock(); }
  void call(std::span<const unsigned> which) override {
    for (const unsigned i : which)
      for (Gva at = mm::align_down(programs[i].start, kPageSize); at < programs[i].start + programs[i].bytes;
           at += kPageSize) {
        const auto t = space_->translate(at, 0);
        if (t && t->execute) continue;
        tlb_.spend(prices_.fault);
        (void)space_->fault(at, mm::Access::Execute);
      }
  }

 private:
  const Prices prices_;
  PricedTlb tlb_;
  std::unique_ptr<mm::Memory> memory_;
  std::unique_ptr<mm::AddressSpace> space_;
  std::unique_ptr<jit::CodeSpace> code_;
};

class InGuest final : public Host {
 public:
  // Null: fetches see all stores there, so there is nothing to defer.
  static std::expected<std::unique_ptr<InGuest>, vmm::Failure> create(const vmm::MachineChoice& machine, Policy policy,
                                                                      unsigned count) {
    vmm::bpf::Options options;
    options.memory_bytes = 256ull << 20;
    options.techniques.exec_sync = policy;
    options.machine = machine;
    auto guest = vmm::bpf::Guest::create(options);
    if (!guest) return std::unexpected(guest.error());
    if (!(*guest)->shell().machine().needs_exec_sync()) return nullptr;
    auto host = std::unique_ptr<InGuest>(new InGuest);
    for (unsigned i = 0; i < count; ++i) {
      auto program = (*guest)->load(filter(i));
      if (!program) return std::unexpected(program.error());
      host->programs.push_back({program->address, program->code_bytes});
      host->loaded_.push_back(*std::move(program));
    }
    host->guest_ = std::move(*guest);
    host->blocks = host->guest_->code_blocks();
    return host;
  }
  mm::AddressSpace& memory() override { return guest_->memory(); }
  void compact() override { guest_->compact(); }
  double clock() const override {
    return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  void call(std::span<const unsigned> which) override {
    std::vector<vmm::bpf::Call> calls;
    for (const unsigned i : which) calls.push_back({.program = &loaded_[i]});
    guest_->call(calls);
  }

 private:
  InGuest() = default;
  std::unique_ptr<vmm::bpf::Guest> guest_;
  std::vector<vmm::bpf::Program> loaded_;
};

// Draws programs: the kth in some order with a probability of 1/k.
class Requests {
 public:
  explicit Requests(std::vector<unsigned> programs) : programs_(std::move(programs)) {
    std::ranges::shuffle(programs_, random_);
    double sum = 0;
    for (std::size_t k = 1; k <= programs_.size(); ++k) sums_.push_back(sum += 1 / static_cast<double>(k));
  }
  std::vector<unsigned> draw(unsigned calls) {
    std::uniform_real_distribution<double> any(0, sums_.back());
    std::vector<unsigned> drawn(calls);
    for (unsigned& d : drawn)
      d = programs_[static_cast<std::size_t>(std::ranges::lower_bound(sums_, any(random_)) - sums_.begin())];
    return drawn;
  }
  std::span<const unsigned> often(std::size_t n) const { return {programs_.data(), std::min(n, programs_.size())}; }

 private:
  std::mt19937 random_{1};  // the same for every policy
  std::vector<unsigned> programs_;
  std::vector<double> sums_;
};

struct Workload {
  Host& host;
  unsigned turn = 0;
  std::mt19937 random{2};
  unsigned count() const { return static_cast<unsigned>(host.programs.size()); }
  std::vector<unsigned> all() const {
    std::vector<unsigned> numbers(count());
    std::iota(numbers.begin(), numbers.end(), 0);
    return numbers;
  }
  Requests everybody{all()};
  Requests tenant{[this] {
    auto some = all();
    some.resize(count() / 16);
    return some;
  }()};

  std::uint64_t move(Gva at, std::uint64_t length, MoveReason why, std::optional<unsigned> node = {}) {
    const auto done = host.memory().migrate({.address = at, .length = length, .reason = why, .node = node});
    return done ? done->moved : 0;
  }
  Gva page_of(unsigned program) const { return mm::align_down(host.programs[program].start, kPageSize); }
  // Small pages in no order: what it takes is not counted.
  void scatter(Gva block) {
    for (Gva at = block; at < block + kBlockSize; at += kPageSize)
      (void)host.memory().migrate({.address = at, .length = kPageSize});
  }
};

// What is moved for each reason; `prepare` is not counted.
struct Reason {
  const char *name, *what;
  void (*prepare)(Workload&);
  std::uint64_t (*move)(Workload&);
  Requests& (*requests)(Workload&);
};
Requests& everybody(Workload& w) { return w.everybody; }
void nothing(Workload&) {}
void scatter_all(Workload& w) {
  for (const Gva b : w.host.blocks) w.scatter(b);
}
std::uint64_t unplug(Workload& w) {
  std::uint64_t pages = 0;
  for (const Gva b : w.host.blocks) pages += w.move(b, kBlockSize, MoveReason::Hotplug, w.turn % 2);
  return pages;
}
const Reason kReasons[] = {
    {"explicit", "a tenant's programs go to another node by move_pages, and it goes on calling them", nothing,
     [](Workload& w) {
       const Gva from = w.page_of(0);
       return w.move(from, mm::align_up(w.host.programs[w.count() / 16].start, kPageSize) - from, MoveReason::Explicit);
     },
     [](Workload& w) -> Requests& { return w.tenant; }},
    {"compaction", "the whole code space becomes blocks again, of which every page has been moved", scatter_all,
     [](Workload& w) {
       const auto& moved = w.host.memory().counters().migrated[static_cast<std::size_t>(MoveReason::Compaction)];
       const std::uint64_t before = moved;
       w.host.compact();
       return moved - before;
     },
     everybody},
    {"numa", "the pages of the 50 programs that are called most follow the thread that calls them", nothing,
     [](Workload& w) {
       std::uint64_t pages = 0;
       for (const unsigned p : w.everybody.often(50))
         pages += w.move(w.page_of(p), kPageSize, MoveReason::Numa, w.turn % 2);
       return pages;
     },
     everybody},
    {"memory failure", "8 pages anywhere have had errors that could be corrected", nothing,
     [](Workload& w) {
       std::uint64_t pages = 0;
       for (int i = 0; i < 8; ++i)
         pages += w.move(w.page_of(static_cast<unsigned>(w.random()) % w.count()), kPageSize,
                         MoveReason::MemoryFailure);
       return pages;
     },
     everybody},
    {"hot-plug", "all pages of one node leave it", nothing, unplug, everybody},
    {"hot-plug 4 KiB", "the same of small pages", scatter_all, unplug, everybody},
    {"contiguous", "one block in turn is made of its small pages",
     [](Workload& w) { w.scatter(w.host.blocks[w.turn % w.host.blocks.size()]); },
     [](Workload& w) {
       const Gva b = w.host.blocks[w.turn % w.host.blocks.size()];
       const std::uint64_t pages = w.move(b, kBlockSize, MoveReason::Contiguous);
       w.host.memory().merge(b, kBlockSize);
       return pages;
     },
     everybody},
};

struct Sum {
  double pages = 0, syncs = 0, faults = 0, time = 0;
};

// The mean of so many rounds, after kFirst others before which the policy knows nothing.
Sum rounds_of(Host& host, const Reason& reason, unsigned rounds) {
  constexpr unsigned kFirst = 1, kCalls = 1000;
  Workload w{.host = host};
  Requests& requests = reason.requests(w);
  host.call(w.all());
  const mm::Counters& c = host.memory().counters();
  Sum sum;
  for (w.turn = 0; w.turn < rounds + kFirst; ++w.turn) {
    reason.prepare(w);
    const auto calls = requests.draw(kCalls);
    const std::uint64_t syncs = c.exec_syncs, faults = c.exec_faults;
    const double began = host.clock();
    const std::uint64_t pages = reason.move(w);
    host.call(calls);
    if (w.turn < kFirst) continue;
    sum.time += host.clock() - began;
    sum.pages += static_cast<double>(pages), sum.syncs += static_cast<double>(c.exec_syncs - syncs),
        sum.faults += static_cast<double>(c.exec_faults - faults);
  }
  const double n = rounds;
  return {sum.pages / n, sum.syncs / n, sum.faults / n, sum.time / n};
}

constexpr std::array kPolicies = {Policy::Eager, Policy::Lazy, Policy::Adaptive};

// `measure` gives the cost under a policy, or nothing: then there is no table.
template <class Measure>
std::optional<Table> workloads(std::string title, std::span<const Reason> reasons, const Measure& measure,
                               const Progress& progress) {
  Table t{.title = std::move(title),
          .columns = {"reason", "pages", "syncs:eager", "syncs:lazy", "syncs:adapt", "faults:lazy", "faults:adapt",
                      "ms:eager", "ms:lazy", "ms:adaptive", "wins"},
          .rows = {}};
  for (const Reason& reason : reasons) {
    progress(fmt::format("{}: {}", t.title.substr(0, t.title.find(':')), reason.name));
    std::array<Sum, 3> sums;
    for (std::size_t i = 0; i < kPolicies.size(); ++i) {
      const auto sum = measure(kPolicies[i], reason);
      if (!sum) return std::nullopt;
      sums[i] = *sum;
    }
    const auto& [eager, lazy, adaptive] = sums;
    const bool even = std::abs(eager.time - lazy.time) < 0.02 * std::max(eager.time, lazy.time);
    t.rows.push_back({reason.name, fmt::format("{:.0f}", eager.pages), fmt::format("{:.0f}", eager.syncs),
                      fmt::format("{:.0f}", lazy.syncs), fmt::format("{:.0f}", adaptive.syncs),
                      fmt::format("{:.0f}", lazy.faults), fmt::format("{:.0f}", adaptive.faults), ms(eager.time),
                      ms(lazy.time), ms(adaptive.time),
                      even                     ? "neither"
                      : eager.time < lazy.time ? "eager"
                                               : "lazy"});
  }
  return t;
}

}  // namespace

std::vector<Table> migration_workloads(bool quick, const Progress& progress) {
  const unsigned count = quick ? 400 : 8000, rounds = quick ? 1 : 10;
  std::vector<Table> tables;
  for (const auto& [name, prices] :
       {std::pair("the proposal's prices", kSeed), std::pair("Neoverse N1's price of a sync", kNeoverseN1)}) {
    auto t = workloads(
        fmt::format("Workloads with {}: {} programs move, and 1000 calls follow; time for syncs and faults", name,
                    count),
        kReasons,
        [&](Policy policy, const Reason& reason) -> std::optional<Sum> {
          Modelled host(prices, policy, count);
          return rounds_of(host, reason, rounds);
        },
        progress);
    tables.push_back(std::move(*t));
  }
  for (const auto kind :
       {vmm::MachineChoice::Kind::Kvm, vmm::MachineChoice::Kind::Process, vmm::MachineChoice::Kind::Soft}) {
    vmm::MachineChoice machine;
    machine.kind = kind;
    const std::string name = vmm::name_of(machine);
    auto t = workloads(
        fmt::format("Workloads on the machine {}: {} programs move, and 1000 calls follow; all of the time", name,
                    count / 4),
        std::span(kReasons).first(quick ? 1 : std::size(kReasons)),
        [&](Policy policy, const Reason& reason) -> std::optional<Sum> {
          auto host = InGuest::create(machine, policy, count / 4);
          if (host && *host) return rounds_of(**host, reason, rounds);
          progress(fmt::format("left out on the machine {}: {}", name,
                               host ? "fetches see what was stored, nothing is deferred" : host.error().message));
          return std::nullopt;
        },
        progress);
    if (t) tables.push_back(std::move(*t));
  }
  for (const Reason& reason : kReasons) tables.front().notes.push_back(fmt::format("{}: {}", reason.name, reason.what));
  return tables;
}

}  // namespace ramet::tools
