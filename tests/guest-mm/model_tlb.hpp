// Fake vCPUs with translation caches and an instruction cache that really go stale, and a model of a shadow-paging
// host.
//
// A vCPU reaches memory as hardware does: through its own cache, else by a walk of the tables, from the top or from the
// last table that it walked for these 2 MiB. The walk here is written from the manuals and shares nothing with the code
// it checks. Nothing is dropped from a cache but by a flush, or by the vCPU's own fault where the architecture says so,
// so a flush that was forgotten leaves a stale entry, and verify() names it. The walk sets accessed and dirty bits at
// any time. The instruction cache knows memory by where it is in the host, and never sees a store.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "guest-mm/address_space.hpp"
#include "guest-mm/tlb.hpp"

namespace ramet::mm::test {

// One translation as hardware would cache it.
struct Translation {
  Gpa gpa = 0;  // of the 4 KiB page
  bool write = false, execute = false;
  bool dirty = true;  // x86-64: a store through an entry that is not dirty looks at the tables again
  bool operator==(const Translation& o) const { return gpa == o.gpa && write == o.write && execute == o.execute; }
};

// A walk cut short: the table of the last level, as a processor caches it (Intel: paging-structure cache, Arm: walk
// cache).
struct LastTable {
  Gpa table = 0;
  bool may_write = true;  // as far as the tables on the way there say
};

// What the walker writes into the leaf that it uses.
enum class Sets { Nothing, Accessed, AccessedAndDirty };

inline std::uint64_t address_bits(Format format) {
  return format == Format::X86_64Stage1 ? 0x000ffffffffff000 : 0x0000fffffffff000;
}

// What a leaf says of `va`; `may_write`: as far as the tables on the way there say. None: user code has no access.
inline std::optional<Translation> leaf_translation(Format format, std::uint64_t e, Gva va, int level, bool may_write) {
  const std::uint64_t span = 1ull << (12 + 9 * level);
  Translation t;
  t.gpa = (e & address_bits(format) & ~(span - 1)) + (va & (span - 1) & ~0xfffull);
  bool user = true;
  switch (format) {
    case Format::X86_64Stage1:
      t.write = e >> 1 & 1;
      user = e >> 2 & 1;
      t.execute = (e >> 63 & 1) == 0;
      t.dirty = e >> 6 & 1;
      break;
    case Format::Arm64Stage1:
      t.write = (e >> 7 & 1) == 0;
      user = e >> 6 & 1;
      t.execute = (e >> 54 & 1) == 0;
      break;
    case Format::Arm64Stage2:
      t.write = e >> 7 & 1;
      user = e >> 6 & 1;  // readable at all
      t.execute = (e >> 54 & 1) == 0;
      break;
  }
  if (!user) return std::nullopt;
  t.write = t.write && may_write;
  return t;
}

// The independent walk. `seen` is called with each table entry on the way. Begins at `*last` if that is set; else sets
// it to the last table.
template <class Seen>
std::optional<Translation> hardware_walk(Format format, const Memory& memory, Gpa root, Gva va, Seen&& seen,
                                         Sets sets = Sets::Nothing, std::optional<LastTable>* last = nullptr) {
  const bool cut_short = last && *last;
  Gpa table = cut_short ? (*last)->table : root;
  bool may_write = !cut_short || (*last)->may_write;
  for (int level = cut_short ? 0 : 3; level >= 0; --level) {
    const unsigned index = (va >> (12 + 9 * level)) & 511;
    auto* entries = reinterpret_cast<std::uint64_t*>(memory.host(table));
    // Acquire: pairs with the release store of the walker under test, as a hardware walk depends on it.
    std::atomic_ref<std::uint64_t> slot(entries[index]);
    std::uint64_t e = slot.load(std::memory_order_acquire);
    const bool x86 = format == Format::X86_64Stage1;
    bool leaf;
    for (;;) {
      if ((e & 1) == 0) {
        seen(table, index, e);
        return std::nullopt;
      }
      leaf = level == 0 || (level < 3 && (x86 ? (e >> 7 & 1) == 1 : (e >> 1 & 1) == 0));
      if (!leaf || sets == Sets::Nothing) break;
      const bool write = sets == Sets::AccessedAndDirty, writable = (e & 2) && may_write;
      if (x86 && write && !writable) return std::nullopt;  // an access that faults need not set bits
      const std::uint64_t used = x86 ? e | 1 << 5 | (write ? 1 << 6 : 0) : e | 1 << 10;
      if (used == e) break;
      if (slot.compare_exchange_weak(e, used, std::memory_order_acq_rel)) e = used;  // the next round ends the loop
    }
    seen(table, index, e);
    if (!leaf) {
      if (x86 && (e >> 1 & 1) == 0) may_write = false;
      if (format == Format::Arm64Stage1 && (e >> 62 & 1)) may_write = false;
      table = e & address_bits(format);
      if (level == 1 && last) *last = {.table = table, .may_write = may_write};
      continue;
    }
    return leaf_translation(format, e, va, level, may_write);
  }
  return std::nullopt;
}

// Of all vCPUs of all VMs.
class InstructionCache {
 public:
  // The word as it was when it was first fetched after the last drop.
  std::uint64_t fetch(const std::byte* at, std::uint64_t now) {
    std::lock_guard guard(lock_);
    return words_.emplace(at, now).first->second;
  }
  void drop(const std::byte* at, std::uint64_t bytes) {
    std::lock_guard guard(lock_);
    words_.erase(words_.lower_bound(at), words_.lower_bound(at + bytes));
  }

 private:
  std::mutex lock_;
  std::map<const std::byte*, std::uint64_t> words_;
};

class ModelTlb;

class FakeVcpu {
 public:
  FakeVcpu(ModelTlb& tlb, AddressSpace& as) : tlb_(tlb), as_(as) {}
  // A load, store or instruction fetch of one aligned 8-byte word by guest code: retries over faults as
  // the hardware would. Errors are what becomes a signal.
  Result<std::uint64_t> load(Gva va) { return access(va, Access::Read, 0); }
  Result<std::uint64_t> fetch(Gva va) { return access(va, Access::Execute, 0); }
  Result<> store(Gva va, std::uint64_t value) {
    auto done = access(va, Access::Write, value);
    if (!done) return fail(done.error());
    return {};
  }

 private:
  friend class ModelTlb;
  Result<std::uint64_t> access(Gva va, Access, std::uint64_t value);
  void spurious(Gva page);
  void walk_ahead(Gva page);
  void drop(Gva start, Gva end);  // what a flush of the range drops
  void drop_all() { cache_.clear(), walks_.clear(); }
  static inline thread_local FakeVcpu* current = nullptr;  // whose fault this thread handles
  ModelTlb& tlb_;
  AddressSpace& as_;
  std::mutex lock_;  // held for one access, and while a flush empties the cache
  std::map<Gva, Translation> cache_;  // by 4 KiB page
  std::map<Gva, std::optional<LastTable>> walks_;  // by 2 MiB
  std::minstd_rand ahead_;  // where to look, as a processor speculates
  std::uint64_t generation_ = 0;  // of relaxed flushes, at this vCPU's last drop_all() in spurious()
};

class ModelTlb : public Tlb {
 public:
  explicit ModelTlb(Format format,
                    std::shared_ptr<InstructionCache> instructions = std::make_shared<InstructionCache>())
      : format_(format), instructions_(std::move(instructions)) {}

  void attach(AddressSpace& as, unsigned vcpus) {
    as_ = &as;
    for (unsigned i = 0; i < vcpus; ++i) vcpus_.push_back(std::make_unique<FakeVcpu>(*this, as));
  }
  FakeVcpu& vcpu(unsigned i) { return *vcpus_[i]; }

  void flush(const FlushRequest& request) override {
    ++strict;
    if (before_flush) before_flush();
    if (ignore_flushes) return;
    for (auto& vcpu : vcpus_) {
      std::lock_guard guard(vcpu->lock_);
      for (const auto& r : request.ranges) vcpu->drop(r.start, r.end);
      if (request.everything) vcpu->drop(0, ~Gva{0});
      std::erase_if(vcpu->walks_, [&](const auto& walk) {
        return walk.second && std::ranges::find(request.tables, walk.second->table) != request.tables.end();
      });
    }
    {
      std::lock_guard guard(shadow_lock_);
      for (Gpa table : request.tables) shadow_.erase(table);
    }
    if (after_flush) after_flush();
  }
  // Other vCPUs may keep their translations, and in this model always do. The calling vCPU drops its own.
  void flush_relaxed(const FlushRequest&) override;

  void exec_sync(Gpa first, std::uint64_t bytes) override {
    const std::byte* const at = as_->physical().host(first);  // the machine's own pages are in no bank
    clock += sync_cost * ((bytes + kPageSize - 1) / kPageSize);
    if (at && !ignore_exec_syncs) instructions_->drop(at, bytes);
  }

  bool needs_exec_sync() const override { return !fetches_see_stores; }

  std::uint64_t now() const override { return clock; }

  // Called while nothing runs: says which cached translation or shadowed entry a flush forgot; empty: none.
  std::string verify() {
    for (auto& vcpu : vcpus_) {
      std::lock_guard guard(vcpu->lock_);
      for (const auto& [va, cached] : vcpu->cache_) {
        const auto now = walk(va, [](Gpa, unsigned, std::uint64_t) {});
        const bool writes = cached.write && cached.dirty;
        if (!now || now->gpa != cached.gpa || (writes && !now->write) || (cached.execute && !now->execute)) {
          return "a vCPU still holds an old translation of " + std::to_string(va);
        }
      }
    }
    std::lock_guard guard(shadow_lock_);
    for (const auto& [table, entries] : shadow_) {
      for (const auto& [index, old] : entries) {
        const auto* now = reinterpret_cast<const std::uint64_t*>(as_->physical().host(table));
        if (lost(old, now[index])) return "the host was not told of a changed table page";
      }
    }
    return {};
  }

  std::atomic<unsigned> strict{0}, relaxed{0}, spurious{0}, spurious_flushes{0};  // statistics
  std::atomic<unsigned> conflicts{0};  // arm64: two translations of one address at a time
  std::function<void()> before_flush;  // what others do while vCPUs still hold the old entries
  std::function<void()> after_flush;  // what they do right after the flush
  bool flags_by_fault = false;  // arm64: the processor writes no entries, and faults on one without access flag
  std::atomic<std::uint64_t> clock{0};  // ns, of a processor on which nothing takes time but what follows:
  std::uint64_t sync_cost = 0, fault_cost = 0;  // a sync of 4 KiB; a fault of a fetch, all told
  bool ignore_flushes = false;  // damage, to see that it is noticed
  bool ignore_exec_syncs = false;  // likewise
  bool fetches_see_stores = false;  // as on x86-64: no exec_sync() is needed

  template <class Seen>
  std::optional<Translation> walk(Gva va, Seen&& seen) const {
    return hardware_walk(format_, as_->physical(), as_->root(), va, seen);
  }

 private:
  friend class FakeVcpu;

  // Whether a change of an entry takes a mapping or a permission: a shadow-paging host must be told of those.
  bool lost(std::uint64_t old, std::uint64_t now) const {
    constexpr std::uint64_t address = 0x0000fffffffff000ull;
    if ((old & 1) == 0) return false;
    if ((now & 1) == 0 || ((old ^ now) & address)) return true;
    switch (format_) {
      case Format::X86_64Stage1: return (old & ~now & 0x2) || (now & ~old & (1ull << 63));
      case Format::Arm64Stage1: return (now & ~old & 0x80) || (now & ~old & (1ull << 54));
      case Format::Arm64Stage2: return (old & ~now & 0x80) || (now & ~old & (1ull << 54));
    }
    return true;
  }

  // Break-before-make: while one translation is cached, the tables may not hold another frame.
  void note_conflict(Gva va, const Translation& cached) {
    if (format_ == Format::X86_64Stage1) return;
    const auto now = walk(va, [](Gpa, unsigned, std::uint64_t) {});
    if (now && now->gpa != cached.gpa) ++conflicts;
  }

  std::optional<Translation> fill(Gva va, Access access, std::optional<LastTable>& last) {
    // A shadow-paging host reads the tables and records what it read in one step. It maps an entry that is not dirty
    // read-only, to see when that changes.
    std::lock_guard guard(shadow_lock_);
    const Sets sets = flags_by_fault            ? Sets::Nothing
                      : access == Access::Write ? Sets::AccessedAndDirty
                                                : Sets::Accessed;
    struct {
      Gpa table = 0;
      unsigned index = 0;
      std::uint64_t e = 0;
    } step;
    const auto take = [&] {
      const bool clean = format_ == Format::X86_64Stage1 && (step.e & 1 << 6) == 0;
      if (step.e & 1) shadow_[step.table][step.index] = clean ? step.e & ~2ull : step.e;
    };
    const auto found = hardware_walk(
        format_, as_->physical(), as_->root(), va,
        [&](Gpa table, unsigned index, std::uint64_t e) {
          take();
          step = {table, index, e};
        },
        sets, &last);
    if (flags_by_fault && (step.e >> 10 & 1) == 0) return std::nullopt;  // the last one is a leaf, or none
    take();
    return found;
  }

  const Format format_;
  const std::shared_ptr<InstructionCache> instructions_;
  AddressSpace* as_ = nullptr;
  std::vector<std::unique_ptr<FakeVcpu>> vcpus_;
  std::mutex shadow_lock_;
  std::map<Gpa, std::map<unsigned, std::uint64_t>> shadow_;  // entries as the host last saw them
};

inline void FakeVcpu::drop(Gva start, Gva end) {
  const auto first = cache_.lower_bound(start), last = cache_.lower_bound(end);
  for (auto i = first; i != last; ++i) tlb_.note_conflict(i->first, i->second);
  cache_.erase(first, last);
  walks_.erase(walks_.lower_bound(align_down(start, kBlockSize)), walks_.lower_bound(end));
}

// A speculative walk, for a page that the program did not access.
inline void FakeVcpu::walk_ahead(Gva page) {
  const Gva other = page ^ (ahead_() % 64 << kPageShift);
  if (cache_.contains(other)) return;
  if (const auto filled = tlb_.fill(other, Access::Read, walks_[align_down(other, kBlockSize)]))
    cache_.emplace(other, *filled);
}

// The entry allows the access by now: its translation goes, and all of them if permission was given since this vCPU
// dropped everything, as there may be more like it.
inline void FakeVcpu::spurious(Gva page) {
  std::lock_guard guard(lock_);
  drop(page, page + kPageSize);
  ++tlb_.spurious;
  const std::uint64_t now = tlb_.generation();
  if (now == generation_) return;
  generation_ = now;
  drop_all();
  ++tlb_.spurious_flushes;
}

inline void ModelTlb::flush_relaxed(const FlushRequest& request) {
  ++relaxed;
  FakeVcpu* own = FakeVcpu::current;
  if (!own || own->tlb_.as_ != as_) return;
  std::lock_guard guard(own->lock_);
  if (request.everything) own->drop_all();
  for (const auto& r : request.ranges) own->drop(r.start, r.end);
}

inline Result<std::uint64_t> FakeVcpu::access(Gva va, Access access, std::uint64_t value) {
  const Gva page = align_down(va, kPageSize);
  const bool x86 = tlb_.format_ == Format::X86_64Stage1;
  for (int attempt = 0; attempt < 10000; ++attempt) {
    {
      std::lock_guard guard(lock_);
      walk_ahead(page);
      auto cached = cache_.find(page);
      auto& last = walks_[align_down(page, kBlockSize)];
      if (cached == cache_.end()) {
        if (const auto filled = tlb_.fill(page, access, last)) cached = cache_.emplace(page, *filled).first;
      } else {
        tlb_.note_conflict(page, cached->second);
        if (access == Access::Write && cached->second.write && !cached->second.dirty) {
          const auto filled = tlb_.fill(page, access, last);
          if (filled) cached->second = *filled;
          else cache_.erase(cached), cached = cache_.end();
        }
      }
      if (cached != cache_.end()) {
        const Translation& t = cached->second;
        if (access == Access::Read || (access == Access::Write ? t.write : t.execute)) {
          auto* host = reinterpret_cast<std::uint64_t*>(as_.physical().host(t.gpa) + (va & (kPageSize - 1)));
          std::atomic_ref<std::uint64_t> word(*host);  // guest memory: ordered by nothing
          if (access == Access::Execute)
            return tlb_.instructions_->fetch(reinterpret_cast<std::byte*>(host), word.load(std::memory_order_relaxed));
          if (access == Access::Read) return word.load(std::memory_order_relaxed);
          word.store(value, std::memory_order_relaxed);
          return value;
        }
      }
      // On x86-64 a fault drops the translations that caused it; elsewhere software has to.
      if (x86) drop(page, page + kPageSize);
    }
    current = this;
    if (access == Access::Execute) tlb_.clock += tlb_.fault_cost;
    const auto done = as_.fault(va, access);
    current = nullptr;
    if (!done) return fail(done.error());
    if (done->kind == FaultOutcome::Kind::Spurious) spurious(page);
  }
  ADD_FAILURE() << "an access faults for ever";
  return fail(Error::Invalid);
}

}  // namespace ramet::mm::test
