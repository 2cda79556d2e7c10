// Trees of VMs beside the model of what each has: they are frozen, spawned, reset, restored and ended, change their
// memory and what is mapped, share files that shrink, run short of everything, and devices write into pinned pages.
// A Choices (choices.hpp) decides what is done.
#pragma once

#include <string>

#include "tests/guest-mm/tree_space.hpp"

namespace ramet::mm::test {

// A file of one huge hole, of which each page takes a table of its own where it is mapped.
class Hole : public Backing {
 public:
  static constexpr std::uint64_t kSize = 256 * kBlockSize;
  explicit Hole(Memory& memory) {
    const int fd = ::memfd_create("hole", MFD_CLOEXEC);
    EXPECT_EQ(::ftruncate(fd, kSize), 0);
    void* at = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    ::close(fd);
    bank_ = *memory.make_bank({static_cast<std::byte*>(at), kSize}, [at] { ::munmap(at, kSize); });
  }
  std::uint64_t size() const override { return kSize; }
  Result<> read(std::uint64_t, std::span<std::byte>) override { return fail(Error::Io); }
  Shared shared() const override { return {bank_, 0}; }

 private:
  std::shared_ptr<Bank> bank_;
};

class Tree {
 public:
  Tree(Format format, Choices& choices) : choices_(choices) {
    const auto flag = [&](unsigned one_in) { return !choices_.one_in(one_in); };
    AddressSpace::Config& c = options_.world.config;
    const unsigned shape = choices_.below(256);
    options_.format = format;
    options_.tight = shape & 1;
    c.eager_accessed_dirty = shape >> 1 & 1;
    c.blocks = shape >> 2 & 1;
    c.relaxed_flushes = shape >> 3 & 1;
    c.speculative_faults = shape >> 4 & 1;
    options_.world.files = shape >> 5 & 1;
    options_.world.flags_by_fault = shape >> 6 & 1;
    c.merge = flag(4);
    c.pinned_cow = flag(8);
    c.many_layers = choices_.below(4);
    c.around_pages = 1u << choices_.below(6);
    c.giants = choices_.below(2);
    c.start = kTreeBase;
    c.mmap_top = at(kTreePages);
    options_.world.data = 256 * kMiB;  // layers keep blocks that are hardly used
    options_.world.tables = 8 * kMiB;
    options_.world.space = space_;
    linear_ = choices_.one_in(4);
    if (options_.tight) {
      options_.world.tables = 2 * kMiB;
      options_.world.data = kBlockSize << choices_.below(5);
      c.limit_bytes = choices_.below(2) ? kPageSize << choices_.below(12) : 0;
      if (choices_.one_in(4)) c.max_regions = 4 + choices_.below(16);
      if (choices_.one_in(4)) options_.slots = 2 + choices_.below(12);
      c.speculative_frames = choices_.below(4);
    }
    add();
    if (!spaces_.empty() && choices_.below(2)) spaces_[0]->space.map(0, kTreePages, nullptr);
  }

  // False: nothing more is to be done.
  bool step() {
    if (!choices_.another() || spaces_.empty()) return false;
    ++steps;
    const unsigned what = choices_.below(64);
    Member& m = *spaces_[choices_.below(static_cast<unsigned>(spaces_.size()))];
    ModelSpace& s = m.space;
    const auto number = std::ranges::find(spaces_, &m, [](const auto& other) { return other.get(); }) - spaces_.begin();
    if (trace_)
      std::fprintf(stderr, "%3llu: space %d does %u", static_cast<unsigned long long>(steps), static_cast<int>(number),
                   what);
    if (what < 18) {
      if (trace_) std::fprintf(stderr, "\n");
      return operate(m, what), true;
    }
    const auto [start, count] = pick_range();
    const unsigned few = std::min(count, 1 + choices_.below(16));
    if (trace_) std::fprintf(stderr, " with %u pages from %u, or %u\n", count, start, few);
    change(s, what, start, count, few);
    if (steps % 8 == 0) {  // the spaces in turn; finish() looks at all of them
      ModelSpace& one = spaces_[steps / 8 % spaces_.size()]->space;
      one.check();
      one.expect_regions();
    }
    return true;
  }

  // What a guest, a device or the VMM does to one space. `what`: from 18 on; `few` of the `count` pages for what is
  // dear.
  void change(ModelSpace& s, unsigned what, unsigned start, unsigned count, unsigned few) {
    switch (what) {
      case 18:
      case 19:
      case 20: s.map(start, count, nullptr); break;
      case 21:
      case 22: s.map(start, few, file()); break;
      case 23:
      case 24: s.unmap(start, count); break;
      case 25:
      case 26:
      case 27: s.protect(start, count); break;
      case 28:
      case 29:
      case 30: s.advise(start, count); break;
      case 31:
      case 32: s.remap(start, std::min(count, kTreePages / 2)); break;
      case 33:
      case 34:
      case 35: s.pin(start, few); break;
      case 36: s.unpin(); break;
      case 37:
      case 38: s.device(); break;
      case 39:
      case 40: s.gather(start, few); break;
      case 41:
      case 42: s.word(start); break;
      case 43: s.words(); break;
      case 44:
      case 45: s.write(start, std::min(count, 80u)); break;
      case 46: s.read(start, std::min(count, 80u)); break;
      case 47: s.read_string(start); break;
      case 48:
        EXPECT_TRUE(short_of_tables(s.world.as->split(at(start), count * kPageSize, arch::Level(choices_.below(2)))));
        break;
      case 49: (void)s.world.as->merge(at(start), count * kPageSize); break;
      default: {
        const unsigned times = 1 + choices_.below(16);
        for (unsigned i = 0; i < times; ++i) s.access(i ? (start + i * (1 + choices_.below(8))) % kTreePages : start);
      }
    }
  }

  // Ends all spaces, children before their parents, and expects that nothing is left of any.
  void finish(bool touch_all) {
    for (const auto& m : spaces_) m->space.let_go_of_all();
    for (const auto& m : spaces_) m->space.expect_equal(touch_all);
    frozen_.clear();
    while (!spaces_.empty()) {
      World& w = spaces_.back()->space.world;
      if (!options_.tight && !linear_ && !kernel_) w.check_empty();
      spaces_.pop_back();
    }
  }

  std::uint64_t steps = 0, freezes = 0, spawns = 0, resets = 0, refused = 0;

 private:
  struct Frozen {
    std::shared_ptr<const FrozenMemory> snapshot;
    Model model;
  };
  struct Member {
    Member(const ModelSpace::Options& options, Choices& choices) : space(options, choices) {}
    ModelSpace space;
    std::weak_ptr<Frozen> adopted;
  };

  std::pair<unsigned, unsigned> pick_range() {
    unsigned start = choices_.below(kTreePages);
    const unsigned how = choices_.below(8);
    if (how == 0) return {start / 512 * 512, std::min(512u, kTreePages - start / 512 * 512)};
    const unsigned count = 1 + choices_.below(how < 6 ? 20 : 700);
    return {start, std::min(count, kTreePages - start)};
  }

  // What concerns more than one range of memory.
  void operate(Member& m, unsigned what) {
    ModelSpace& s = m.space;
    switch (what) {
      case 0:
      case 1:
      case 2: freeze(s); break;
      case 3:
      case 4:
      case 5: spawn(); break;
      case 6: end_one(); break;
      case 7:
      case 8: reset(m); break;
      case 9:
        if (!frozen_.empty()) frozen_.erase(frozen_.begin() + choices_.below(static_cast<unsigned>(frozen_.size())));
        break;
      case 10: resize(); break;
      case 11:
        if (const auto f = file(); !choices_.one_in(2)) f->file->broken = !f->file->broken;
        break;
      case 12: starve(s); break;
      case 13: restart(); break;
      case 14: linear(s); break;
      case 15: kernel(s); break;
      case 16: s.expect_equal(false); break;
      case 17:
        if (!frozen_.empty())
          s.world.as->copy_hot(*frozen_[choices_.below(static_cast<unsigned>(frozen_.size()))]->snapshot);
        break;
    }
  }
  bool short_of_tables(Result<> done) const { return done || (options_.tight && done.error() == Error::NoMemory); }

  Member* add() {
    auto m = std::make_unique<Member>(options_, choices_);
    if (!m->space.observed) return nullptr;
    if (linear_ && options_.format != Format::Arm64Stage2) {
      EXPECT_TRUE(short_of_tables(m->space.world.as->map_linear(kLinear)));
    }
    spaces_.push_back(std::move(m));
    return spaces_.back().get();
  }
  std::shared_ptr<ModelFile> file() {
    const unsigned which = choices_.below(2);
    if (!files_[which]) files_[which] = std::make_shared<ModelFile>(*spaces_[0]->space.world.memory, which == 1);
    return files_[which];
  }

  void freeze(ModelSpace& s) {
    if (frozen_.size() > 4) return;
    const auto snapshot = s.world.as->freeze();
    if (!snapshot) {
      ASSERT_TRUE(short_of_tables(fail(snapshot.error()))) << describe(snapshot.error());
      return;
    }
    frozen_.push_back(std::make_shared<Frozen>(*snapshot, copy_of(s.model)));
    ++freezes;
  }
  void spawn() {
    if (frozen_.empty() || spaces_.size() > 6) return;
    const auto from = frozen_[choices_.below(static_cast<unsigned>(frozen_.size()))];
    Member* m = add();
    if (!m) return;
    if (const auto done = m->space.world.as->adopt(from->snapshot); !done) {
      ASSERT_TRUE(short_of_tables(done)) << describe(done.error());
      spaces_.pop_back();
      return;
    }
    m->space.model = copy_of(from->model);
    m->adopted = from;
    ++spawns;
  }
  // Any space: children may outlive their parents.
  void end_one() {
    if (spaces_.size() < 2) return;
    const auto which = spaces_.begin() + choices_.below(static_cast<unsigned>(spaces_.size()));
    (*which)->space.check();
    spaces_.erase(which);
  }
  void reset(Member& m) {
    const auto to = m.adopted.lock();
    if (!to) return;
    const auto done = m.space.world.as->reset(*to->snapshot);
    if (m.space.pinned()) {
      ASSERT_EQ(done, Result<>(fail(Error::Pinned)));
      ++refused;
      return;
    }
    if (!done) {
      ASSERT_TRUE(short_of_tables(done)) << describe(done.error());
      return;
    }
    m.space.model = copy_of(to->model);
    ++resets;
  }
  // A space with the same regions and contents, as from a file that was written of the snapshot.
  void restart() {
    if (frozen_.empty() || spaces_.size() > 5) return;
    const auto from = frozen_[choices_.below(static_cast<unsigned>(frozen_.size()))];
    Member child(options_, choices_);
    World& w = child.space.world;
    if (!child.space.observed || !w.as->adopt(from->snapshot)) return;
    std::vector<Region> regions;
    w.as->visit_regions([&](const Region& r) { regions.push_back(r); });
    std::vector<Extent> contents;
    w.as->visit_contents([&](const Region&, const Extent& s) {
      for (auto left = s; left.pages > 0;) {
        auto piece = left;
        piece.pages = std::min(left.pages, (w.memory->bank_of(left.frame)->end() - left.frame) >> kPageShift);
        contents.push_back(piece);
        left.start += piece.pages << kPageShift, left.frame += piece.pages << kPageShift, left.pages -= piece.pages;
      }
    });
    Member* m = add();
    if (!m) return;
    const auto done = m->space.world.as->restore(from->snapshot->layer, options_.world.config.mmap_top, regions,
                                                 contents);
    if (!done) {
      ASSERT_TRUE(short_of_tables(done)) << describe(done.error());
      spaces_.pop_back();
      return;
    }
    m->space.model = copy_of(from->model);
  }

  // Drops snapshots with pages beyond the file's new end: their later children would not be told of the truncation.
  void resize() {
    const auto f = file();
    const unsigned before = f->pages;
    f->resize(choices_.below(ModelFile::kPages + 1));
    std::erase_if(frozen_, [&](const auto& frozen) {
      return std::ranges::any_of(frozen->model,
                                 [&](const Page& p) { return p.file == f && p.in_file >= std::min(f->pages, before); });
    });
    for (const auto& m : spaces_) m->space.resized(*f);
  }
  // Uses up all tables but a few, or gives them back.
  void starve(ModelSpace& s) {
    constexpr Gva kAt = 0x7000'0000'0000;
    if (!options_.tight) return;
    const unsigned left = choices_.below(8);
    (void)s.world.as->unmap(kAt, Hole::kSize);
    if (left > 6) return;
    if (!hole_) hole_ = std::make_shared<Hole>(*spaces_[0]->space.world.memory);
    if (!s.world.as->map(
            {.address = kAt, .length = Hole::kSize, .prot = kRead, .fixed = true, .shared = true, .backing = hole_}))
      return;
    for (Gva at = kAt; at < kAt + Hole::kSize; at += kBlockSize) {
      const Usage u = s.world.as->usage();
      if (u.table_pages + left >= u.table_limit_pages || !s.world.as->fault(at, Access::Read)) return;
    }
  }
  // Changes ring 0's map of the private bank, which the guest does not see.
  void linear(ModelSpace& s) {
    if (!linear_ || options_.format == Format::Arm64Stage2) return;
    constexpr Prot prots[] = {kRead, kReadWrite, kReadExec, Prot::Exec};
    const Bank& bank = s.world.memory->data();
    const std::uint64_t pages = bank.size() >> kPageShift, first = choices_.below(65536) % pages;
    const std::uint64_t count = std::min<std::uint64_t>(pages - first, 1 + choices_.below(600));
    const Gpa gpa = bank.base() + first * kPageSize;
    const auto done = choices_.one_in(4) ? s.world.as->keep_linear_4k(gpa, count * kPageSize)
                                         : s.world.as->protect_linear(gpa, count * kPageSize, prots[choices_.below(4)]);
    EXPECT_TRUE(short_of_tables(done) || options_.tight);
  }
  void kernel(ModelSpace& s) {
    const auto frame = s.world.as->allocate_kernel_frame();
    if (!frame) return;
    kernel_ = true;
    const Gva address = 0xffff'f000'0000'0000 + choices_.below(2000) * kPageSize;
    const auto done = s.world.as->map_kernel(address, *frame, kPageSize, choices_.below(2) ? kRead : kReadExec);
    if (!done && done.error() == Error::Exists) return;
    EXPECT_TRUE(options_.format == Format::Arm64Stage2 || short_of_tables(done)) << describe(done.error());
  }

  Choices& choices_;
  const bool trace_ = std::getenv("RAMET_TRACE") != nullptr;
  ModelSpace::Options options_;
  bool linear_ = false, kernel_ = false;  // tables for ring 0's mappings are never given back
  std::shared_ptr<PhysicalSpace> space_ = std::make_shared<PhysicalSpace>();
  std::array<std::shared_ptr<ModelFile>, 2> files_;
  std::shared_ptr<Hole> hole_;
  std::vector<std::shared_ptr<Frozen>> frozen_;
  std::vector<std::unique_ptr<Member>> spaces_;  // in the order of their making
};

// What a fuzzer's bytes stand for: a tree from its beginning to its end.
inline void run_tree(std::span<const std::uint8_t> bytes) {
  ByteChoices choices(bytes);
  constexpr Format formats[] = {Format::X86_64Stage1, Format::Arm64Stage1, Format::Arm64Stage2};
  Tree tree(formats[choices.below(std::size(formats))], choices);
  while (!::testing::Test::HasFailure() && tree.step()) {}
  if (!::testing::Test::HasFailure()) tree.finish(false);
}

}  // namespace ramet::mm::test
