// What memory should hold, in a way that is too simple to be wrong: each VM has a full copy of its own, page by page.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {

constexpr Gva kTreeBase = 0x1000'0000;
constexpr unsigned kTreePages = 2 * 512 + 64;
constexpr Gva at(unsigned page) { return kTreeBase + page * kPageSize; }

using Content = std::array<std::byte, kPageSize>;

// An object that VMs map, all of them privately or all of them shared: what a private page shows of a file that others
// write would depend on when it was read.
struct ModelFile {
  static constexpr unsigned kPages = 24;
  ModelFile(Memory& memory, bool all_shared)
      : shared(all_shared), file(std::make_shared<TestFile>(memory, kPages * kPageSize)) {
    for (unsigned p = 0; p < kPages; ++p) {
      contents.push_back(std::make_shared<Content>());
      std::memcpy(contents.back()->data(), file->bytes() + p * kPageSize, kPageSize);
    }
  }
  // Grows or shrinks. What comes back is zero.
  void resize(unsigned to) {
    for (unsigned p = to; p < kPages; ++p) contents[p]->fill(std::byte{0});
    pages = to;
    file->shrink(to * kPageSize);
  }
  const bool shared;
  std::shared_ptr<TestFile> file;
  std::vector<std::shared_ptr<Content>> contents;  // zeroes beyond the end
  unsigned pages = kPages;
};

struct Page {
  bool mapped = false;
  Prot prot = Prot::None, max_prot = kAllProt;
  bool dont_fork = false, wipe_on_fork = false, shared = false;
  bool unknown = false;                // short of memory, a VM may keep what a file has lost
  std::shared_ptr<ModelFile> file;     // null: anonymous
  unsigned in_file = 0;                // which page of it
  std::shared_ptr<Content> content;    // of a private page; null: as mapped. Shared only with what pins it.

  bool beyond_end() const { return file && in_file >= file->pages; }
  const Content& seen() const {
    static const Content zeroes = {};
    if (file && (shared || !content)) return in_file < ModelFile::kPages ? *file->contents[in_file] : zeroes;
    return content ? *content : zeroes;
  }
  // The content to write to: seen through this page and through every pin of it.
  const std::shared_ptr<Content>& own() {
    if (shared) return file->contents[in_file];
    if (!content) content = std::make_shared<Content>(seen());
    return content;
  }
  Result<> expected(Access access) const {
    if (!mapped) return fail(Error::NotMapped);
    if (!permits(prot, access)) return fail(Error::NotPermitted);
    if (beyond_end()) return fail(Error::BeyondEnd);
    return {};
  }
};
using Model = std::vector<Page>;

// What a child begins with.
inline Model copy_of(const Model& from) {
  Model to = from;
  for (Page& p : to) {
    if (p.dont_fork) p = {};
    else if (p.wipe_on_fork) p.content = nullptr;
    else if (p.content) p.content = std::make_shared<Content>(*p.content);
  }
  return to;
}

// A machine that has only so many memory slots.
class Slots : public BankObserver {
 public:
  explicit Slots(std::size_t most) : most_(most) {}
  Result<> bank_added(const Bank& bank) override {
    if (known_.size() >= most_) return fail(Error::NoMemory);
    for (const Bank* other : known_)
      EXPECT_TRUE(other->end() <= bank.base() || bank.end() <= other->base()) << "slots overlap";
    known_.push_back(&bank);
    return {};
  }
  void bank_removed(const Bank& bank) override { EXPECT_EQ(std::erase(known_, &bank), 1u) << "no such slot"; }

 private:
  const std::size_t most_;
  std::vector<const Bank*> known_;
};

}  // namespace ramet::mm::test
