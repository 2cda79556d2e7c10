// Reading ELF files: what is refused and why, and that no file whatever gets around the checks.
#include <elf.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "arch/x86_64/guest_abi.hpp"
#include "vmm/linux/program/elf.hpp"

namespace ramet::vmm {
namespace {

// A small valid program: code at 0x400000 and data with .bss behind it. Tests break it in one place.
struct Program {
  Elf64_Ehdr header{};
  std::vector<Elf64_Phdr> headers;
  std::vector<std::byte> tail;  // after the headers
  std::uint64_t size = 0x3000;

  Program() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_entry = 0x400100;
    header.e_phoff = sizeof header;
    header.e_ehsize = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    headers.push_back({PT_LOAD, PF_R | PF_X, 0, 0x400000, 0x400000, 0x1000, 0x1000, 0x1000});
    headers.push_back({PT_LOAD, PF_R | PF_W, 0x1000, 0x401000, 0x401000, 0x800, 0x5000, 0x1000});
  }
  std::vector<std::byte> bytes() const {
    std::vector<std::byte> out(size);
    Elf64_Ehdr h = header;
    if (h.e_phnum == 0) h.e_phnum = static_cast<Elf64_Half>(headers.size());
    if (size >= sizeof h) std::memcpy(out.data(), &h, sizeof h);
    for (std::size_t i = 0; i < headers.size(); ++i)
      if (sizeof h + (i + 1) * sizeof(Elf64_Phdr) <= size)
        std::memcpy(out.data() + sizeof h + i * sizeof(Elf64_Phdr), &headers[i], sizeof(Elf64_Phdr));
    return out;
  }
};

std::expected<ElfFile, Failure> read(const std::vector<std::byte>& file) {
  return read_elf("prog", arch::x86_64::kGuestAbi, file.size(), [&](std::uint64_t offset, std::span<std::byte> out) {
    if (offset > file.size() || out.size() > file.size() - offset) return false;
    if (!out.empty()) std::memcpy(out.data(), file.data() + offset, out.size());
    return true;
  });
}

// The message of the refusal; "" if it was taken.
std::string refusal(const Program& image) {
  auto elf = read(image.bytes());
  if (elf) return "";
  EXPECT_EQ(elf.error().status, 126);
  EXPECT_TRUE(elf.error().message.starts_with("prog ")) << elf.error().message;
  return elf.error().message.substr(5);
}

TEST(Elf, AValidProgramGivesItsSegments) {
  auto elf = read(Program().bytes());
  ASSERT_TRUE(elf) << elf.error().message;
  EXPECT_FALSE(elf->relocatable);
  EXPECT_EQ(elf->entry, 0x400100u);
  EXPECT_EQ(elf->headers, 0x400040u);
  EXPECT_EQ(elf->header_count, 2);
  ASSERT_EQ(elf->segments.size(), 2u);
  EXPECT_EQ(elf->segments[0].prot, mm::Prot::Read | mm::Prot::Exec);
  EXPECT_EQ(elf->segments[1].prot, mm::Prot::Read | mm::Prot::Write);
  EXPECT_EQ(elf->start(), 0x400000u);
  EXPECT_EQ(elf->end(), 0x406000u);
  EXPECT_TRUE(elf->interpreter.empty());
}

TEST(Elf, AnEmptyFileAndOneThatIsNotElfAreNamedAsSuch) {
  EXPECT_EQ(read({}).error().message, "prog is empty");
  EXPECT_EQ(read(std::vector<std::byte>(100)).error().message, "prog is not an ELF program");
  EXPECT_EQ(read(std::vector<std::byte>(3)).error().message, "prog is not an ELF program");
}

TEST(Elf, ATruncatedFileIsNamedAsSuchAtEveryLength) {
  auto whole = Program().bytes();
  for (std::size_t length = 20; length < 0x1800; length += 7) {
    auto elf = read({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length)});
    ASSERT_FALSE(elf) << length;
    EXPECT_NE(elf.error().message.find("is truncated"), std::string::npos) << length << ": " << elf.error().message;
  }
}

TEST(Elf, AnotherArchitectureIsNamedBesideTheOneSupported) {
  Program image;
  image.header.e_machine = EM_AARCH64;
  EXPECT_EQ(refusal(image), "is built for arm64 (aarch64); this machine runs x86-64 programs");
  image.header.e_machine = EM_386;
  image.header.e_ident[EI_CLASS] = ELFCLASS32;
  EXPECT_EQ(refusal(image), "is a 32-bit program, built for 32-bit x86 (i386); this machine runs x86-64 programs");
  image.header.e_ident[EI_DATA] = ELFDATA2MSB;
  EXPECT_EQ(refusal(image), "is a big-endian program; this machine runs x86-64 programs");
}

TEST(Elf, FilesThatAreNoProgramsAreNamedAsWhatTheyAre) {
  Program image;
  image.header.e_type = ET_REL;
  EXPECT_EQ(refusal(image), "is an object file, not a program: link it first");
  image.header.e_type = ET_CORE;
  EXPECT_EQ(refusal(image), "is a core dump, not a program");
}

// Each breaks the valid image in one way.
struct Malformed {
  const char* what;
  void (*change)(Program&);
};
class MalformedElf : public ::testing::TestWithParam<Malformed> {};

TEST_P(MalformedElf, IsRefused) {
  Program image;
  GetParam().change(image);
  std::string why = refusal(image);
  EXPECT_TRUE(why.starts_with("is malformed") || why.starts_with("is truncated")) << GetParam().what << ": " << why;
}

INSTANTIATE_TEST_SUITE_P(
    Each, MalformedElf,
    ::testing::Values(
        Malformed{"header size", [](Program& i) { i.header.e_phentsize = 55; }},
        Malformed{"no headers", [](Program& i) { i.headers.clear(); }},
        Malformed{"too many headers", [](Program& i) { i.header.e_phnum = 0xffff; }},
        Malformed{"headers beyond the end", [](Program& i) { i.header.e_phoff = i.size - 8; }},
        Malformed{"header offset overflows", [](Program& i) { i.header.e_phoff = ~0ull - 16; }},
        Malformed{"nothing to load", [](Program& i) { i.headers[0].p_type = i.headers[1].p_type = PT_NOTE; }},
        Malformed{"file part larger", [](Program& i) { i.headers[1].p_filesz = 0x6000; }},
        Malformed{"offset overflows", [](Program& i) { i.headers[1].p_offset = ~0ull & ~0xfffull; }},
        Malformed{"size overflows", [](Program& i) { i.headers[1].p_filesz = i.headers[1].p_memsz = ~0ull; }},
        Malformed{"memory size overflows", [](Program& i) { i.headers[1].p_memsz = ~0ull - 0x401000; }},
        Malformed{"kernel address", [](Program& i) { i.headers[1].p_vaddr = 0xffff'8000'0000'1000; }},
        Malformed{"ends beyond user memory", [](Program& i) { i.headers[1].p_vaddr = 0x7fff'ffff'e000; }},
        Malformed{"address and offset disagree", [](Program& i) { i.headers[1].p_vaddr += 8; }},
        Malformed{"overlap",
                  [](Program& i) {
                    i.headers[1].p_vaddr = 0x400000;
                    i.headers[1].p_offset = 0;
                  }},
        Malformed{"order", [](Program& i) { std::swap(i.headers[0], i.headers[1]); }},
        Malformed{"address 0",
                  [](Program& i) {
                    i.headers.pop_back();
                    i.headers[0].p_vaddr = 0;
                  }},
        Malformed{"type", [](Program& i) { i.header.e_type = 77; }},
        Malformed{"interpreter without end",
                  [](Program& i) { i.headers.push_back({PT_INTERP, PF_R, 0, 0, 0, 4, 4, 1}); }},
        Malformed{"interpreter too long",
                  [](Program& i) { i.headers.push_back({PT_INTERP, PF_R, 0, 0, 0, 5000, 5000, 1}); }},
        Malformed{"interpreter without name",
                  [](Program& i) { i.headers.push_back({PT_INTERP, PF_R, 0x2000, 0, 0, 4, 4, 1}); }},
        Malformed{"interpreter beyond the end",
                  [](Program& i) { i.headers.push_back({PT_INTERP, PF_R, ~0ull, 0, 0, 9, 9, 1}); }}));

TEST(Elf, WhateverIsReadKeepsItsGuarantees) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  const auto whole = Program().bytes();
  unsigned taken = 0;
  for (unsigned round = 0; round < 100000; ++round) {
    auto file = whole;
    for (unsigned n = 1 + random() % 4; n > 0; --n) {
      std::uint64_t value = random() >> (random() % 64);
      std::size_t at = random() % (sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr) - 8);
      if (random() % 2) at = at / 8 * 8;
      std::memcpy(file.data() + at, &value, 1u << (random() % 4));
    }
    auto elf = read(file);
    if (!elf) continue;
    ++taken;
    ASSERT_FALSE(elf->segments.empty());
    std::uint64_t last = 0;
    for (const Segment& s : elf->segments) {
      ASSERT_GE(s.address, last);
      ASSERT_LE(s.file_bytes, s.memory_bytes);
      ASSERT_LE(s.address, 0x7fff'ffff'f000u);
      ASSERT_LE(s.memory_bytes, 0x7fff'ffff'f000u - s.address);
      ASSERT_LE(s.offset, file.size());
      ASSERT_LE(s.file_bytes, file.size() - s.offset);
      ASSERT_EQ((s.address - s.offset) % 4096, 0u);
      last = s.address + s.memory_bytes;
    }
  }
  EXPECT_GT(taken, 0u);
}

}  // namespace
}  // namespace ramet::vmm
