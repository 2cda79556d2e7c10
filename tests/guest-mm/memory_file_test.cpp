// Banks in memory files: what lies in which file, and what the tables say to a machine that maps them.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "guest-mm/frozen_memory.hpp"
#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

constexpr Prot kRw = Prot::Read | Prot::Write;

struct FilesWorld : World {
  FilesWorld() : World(Format::X86_64Stage1, options()) {}
  static Options options() {
    Options o;
    o.data = 256 * kMiB;
    o.files = true;
    return o;
  }
  // A page with a value in it, written by the VMM.
  Gva page(std::uint64_t value) {
    const Gva at = *as->map({.length = kPageSize, .prot = kRw});
    EXPECT_TRUE(as->write(at, std::as_bytes(std::span(&value, 1))));
    return at;
  }
  AddressSpace::Translation translation(Gva at) { return as->translate(at, 0).value(); }
  FilePart file(Gva at) {
    const Gpa frame = translation(at).frame;
    return memory->bank_of(frame)->file_at(frame);
  }
};

std::uint64_t word_in(const FilePart& part) {
  std::uint64_t value = 0;
  EXPECT_EQ(::pread(part.file->descriptor(), &value, sizeof value, static_cast<off_t>(part.offset)),
            ssize_t{sizeof value});
  return value;
}

TEST(MemoryFiles, APageIsFoundInItsFile) {
  FilesWorld w;
  const Gva at = w.page(4711);
  const FilePart part = w.file(at);
  ASSERT_TRUE(part.file);
  EXPECT_EQ(word_in(part), 4711u);
  EXPECT_FALSE(part.file->closed());
}

TEST(MemoryFiles, WhatIsWrittenAfterAFreezeIsInAnotherFile) {
  FilesWorld w;
  const Gva before = w.page(1);
  const auto closed = w.file(before).file;
  auto snapshot = w.as->freeze();
  ASSERT_TRUE(snapshot);
  EXPECT_TRUE(closed->closed());
  EXPECT_EQ(w.file(before).file, closed);  // it still reads the layer's page
  const Gva after = w.page(2);
  EXPECT_NE(w.file(after).file, closed);
  const std::uint64_t changed = 3;
  ASSERT_TRUE(w.as->write(before, std::as_bytes(std::span(&changed, 1))));
  EXPECT_NE(w.file(before).file, closed);
  // Nothing of it, wherever one looks in the closed file.
  std::vector<std::uint64_t> all(256 * kMiB / 8);
  ASSERT_GT(::pread(closed->descriptor(), all.data(), all.size() * 8, 0), 0);
  const auto found = std::ranges::find_if(all, [](std::uint64_t value) { return value != 0 && value != 1; });
  ASSERT_EQ(found, all.end()) << *found;
}

TEST(MemoryFiles, NobodyWritesThroughAReadOnlyDescriptorNorShrinksTheFile) {
  FilesWorld w;
  const auto file = w.file(w.page(1)).file;
  const auto other = file->read_only();
  ASSERT_TRUE(other);
  EXPECT_EQ(::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, *other, 0), MAP_FAILED);
  void* read = ::mmap(nullptr, kPageSize, PROT_READ, MAP_SHARED, *other, 0);
  ASSERT_NE(read, MAP_FAILED);
  EXPECT_NE(::mprotect(read, kPageSize, PROT_READ | PROT_WRITE), 0);
  ::munmap(read, kPageSize);
  EXPECT_NE(::ftruncate(file->descriptor(), 0), 0);
}

TEST(MemoryFiles, PagesPinnedForLongAreInAFileThatNoLayerHas) {
  FilesWorld w;
  const Gva pinned = w.page(1), beside = w.page(2);
  auto pin = w.as->pin(pinned, kPageSize, Access::Write, AddressSpace::PinTerm::Long);
  ASSERT_TRUE(pin);
  const auto apart = w.file(pinned).file;
  EXPECT_NE(apart, w.file(beside).file);
  auto snapshot = w.as->freeze();
  ASSERT_TRUE(snapshot);
  EXPECT_EQ(w.file(pinned).file, apart);
  EXPECT_FALSE(apart->closed());
}

TEST(MemoryFiles, WhatIsGivenBackIsAHoleInTheFile) {
  FilesWorld w;
  const Gva at = *w.as->map({.length = 64 * kBlockSize, .prot = kRw, .populate = true});
  EXPECT_TRUE(w.as->unmap(at, 64 * kBlockSize));
  const Gva again = *w.as->map({.length = 64 * kBlockSize, .prot = kRw, .populate = true});
  std::vector<std::uint64_t> words(64 * kBlockSize / 8);
  ASSERT_TRUE(w.as->read(again, std::as_writable_bytes(std::span(words))));
  EXPECT_EQ(std::ranges::count(words, 0u), std::ssize(words));
}

TEST(Translation, TheRunAroundAPageEndsWhereSomethingIsDifferent) {
  FilesWorld w;
  const Gva at = *w.as->map({.length = 16 * kPageSize, .prot = kRw});
  const std::vector<std::byte> bytes(16 * kPageSize);
  ASSERT_TRUE(w.as->write(at, bytes));
  const auto whole = w.as->translate(at + 5 * kPageSize, kBlockSize);
  ASSERT_TRUE(whole && whole->write && !whole->execute);
  EXPECT_LE(whole->start, at + 5 * kPageSize);
  ASSERT_TRUE(w.as->protect(at + 8 * kPageSize, kPageSize, Prot::Read));
  const auto low = w.as->translate(at + 5 * kPageSize, kBlockSize),
             middle = w.as->translate(at + 8 * kPageSize, kBlockSize);
  ASSERT_TRUE(low && middle);
  EXPECT_LE(low->start + low->bytes, at + 8 * kPageSize);
  EXPECT_FALSE(middle->write);
  EXPECT_EQ(middle->bytes, kPageSize);
  EXPECT_EQ(middle->frame, low->frame + (at + 8 * kPageSize - low->start));
  const auto near = w.as->translate(at + 5 * kPageSize, kPageSize);
  EXPECT_EQ(near->start, at + 4 * kPageSize);
  EXPECT_EQ(near->bytes, 3 * kPageSize);
  ASSERT_TRUE(w.as->protect(at, kPageSize, Prot::None));
  EXPECT_FALSE(w.as->translate(at, 0));
  ASSERT_TRUE(w.as->unmap(at, 16 * kPageSize));
  EXPECT_FALSE(w.as->translate(at + 5 * kPageSize, 0));
}

}  // namespace
}  // namespace ramet::mm::test
