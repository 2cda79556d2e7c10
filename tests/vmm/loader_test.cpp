// Loading programs: refusals with their status, and what a loaded program finds in its memory.
#include <elf.h>
#include <gtest/gtest.h>
#include <linux/auxvec.h>
#include <sys/stat.h>

#include <set>

#include "tests/vmm/linux_guest.hpp"
#include "vmm/linux/program/loader.hpp"

namespace ramet::vmm {
namespace {

constexpr std::uint64_t kStack = 8 << 20;

// A program of one page of code and one of data, 8 bytes of it from the file; the rest of that page in the
// file is not zero, as it would be .symtab or the like.
std::string program(Elf64_Half type = ET_EXEC, const std::string& interpreter = {}) {
  Elf64_Ehdr h{};
  std::memcpy(h.e_ident, ELFMAG, SELFMAG);
  h.e_ident[EI_CLASS] = ELFCLASS64;
  h.e_ident[EI_DATA] = ELFDATA2LSB;
  h.e_type = type;
  h.e_machine = EM_X86_64;
  h.e_entry = 0x400100;
  h.e_phoff = sizeof h;
  h.e_phentsize = sizeof(Elf64_Phdr);
  std::vector<Elf64_Phdr> p{{PT_LOAD, PF_R | PF_X, 0, 0x400000, 0x400000, 0x1000, 0x1000, 0x1000},
                            {PT_LOAD, PF_R | PF_W, 0x1000, 0x401000, 0x401000, 8, 0x2000, 0x1000}};
  if (!interpreter.empty())
    p.push_back({PT_INTERP, PF_R, 0x800, 0x400800, 0, interpreter.size() + 1, interpreter.size() + 1, 1});
  h.e_phnum = static_cast<Elf64_Half>(p.size());
  std::string file(0x2000, '\xee');
  std::memcpy(file.data(), &h, sizeof h);
  std::memcpy(file.data() + sizeof h, p.data(), p.size() * sizeof p[0]);
  std::memcpy(file.data() + 0x800, interpreter.c_str(), interpreter.size() + 1);
  return file;
}

struct LoaderTest : ::testing::Test {
  std::string add(const std::string& name, const std::string& bytes, mode_t mode = 0755) {
    scratch.file(name, bytes);
    std::string path = scratch.path / name;
    EXPECT_EQ(chmod(path.c_str(), mode), 0);
    return path;
  }
  std::expected<Start, Failure> load_it(Guest& g, const std::string& path,
                                        const std::vector<std::string>& arguments = {},
                                        const std::vector<std::string>& environment = {}) {
    return load(*g.process, path, arguments, environment, kStack);
  }
  void expect_refused(const std::string& path, int status, const std::string& message,
                      const std::vector<Share>& shares = {}) {
    Guest g(shares);
    auto start = load_it(g, path);
    ASSERT_FALSE(start) << path;
    EXPECT_EQ(start.error().status, status);
    EXPECT_NE(start.error().message.find(message), std::string::npos) << start.error().message;
  }
  Scratch scratch;
};

TEST_F(LoaderTest, WhatCannotBeRunIsRefusedWithItsReasonAndStatus) {
  expect_refused(scratch.path / "missing", 127, "does not exist");
  expect_refused(scratch.path, 126, "is a directory");
  expect_refused("/dev/null", 126, "is not a regular file");
  expect_refused(add("empty", ""), 126, "is empty");
  expect_refused(add("text", "some words that are no program"), 126, "is not an ELF program");
  expect_refused(add("plain", program(), 0644), 126, "is not executable");
  expect_refused(add("short", program().substr(0, 0x900)), 126, "is truncated");
}

TEST_F(LoaderTest, AMissingInterpreterNamesTheOptionThatSharesIt) {
  std::string path = add("dynamic", program(ET_DYN, "/lib64/ld-linux-x86-64.so.2"));
  expect_refused(
      path, 126,
      "needs the interpreter /lib64/ld-linux-x86-64.so.2, which is not shared: add --root / or --dir /lib64");
  scratch.dir("lib64");
  expect_refused(path, 126, "does not exist in what is shared", {{scratch.path / "lib64", "/lib64", false}});
  expect_refused(add("script", "#!/bin/nothing\n"), 126, "needs the interpreter /bin/nothing, which is not shared");
}

TEST_F(LoaderTest, AProgramLargerThanTheMemoryIsRefused) {
  std::string file = program();
  const std::uint64_t huge = 1ull << 40;
  std::memcpy(file.data() + sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, p_memsz), &huge,
              sizeof huge);
  expect_refused(add("huge", file), 126, "more than --memory gives it");
}

TEST_F(LoaderTest, SegmentsHoldTheFileAndZeroesBehindItToTheEndOfThePage) {
  Guest g({});
  auto start = load_it(g, add("prog", program()));
  ASSERT_TRUE(start) << start.error().message;
  EXPECT_EQ(start->pc, 0x400100u);
  EXPECT_EQ(g.bytes(0x401000, 8), std::string(8, '\xee'));
  EXPECT_EQ(g.bytes(0x401008, 0x1ff8), std::string(0x1ff8, '\0'));
  EXPECT_FALSE(write_user(g.memory(), 0x400000, 1)) << "code is not writable";
  EXPECT_TRUE(write_user(g.memory(), 0x402ff0, 1));
  EXPECT_GE(g.process->image()->brk_start, 0x403000u);
}

TEST_F(LoaderTest, PositionIndependentProgramsGoSomewhereElseEachTimeAlignedToABlock) {
  std::string path = add("pie", program(ET_DYN));
  std::set<mm::Gva> places;
  for (int i = 0; i < 4; ++i) {
    Guest g({});
    auto start = load_it(g, path);
    ASSERT_TRUE(start) << start.error().message;
    EXPECT_EQ((start->pc - 0x100) % mm::kBlockSize, 0u);
    places.insert(start->pc);
  }
  EXPECT_GT(places.size(), 1u);
}

TEST_F(LoaderTest, TheStackHoldsArgumentsEnvironmentAndTheAuxiliaryVector) {
  Guest g({});
  std::string path = add("prog", program());
  auto start = load_it(g, path, {"one", ""}, {"HOME=/nowhere"});
  ASSERT_TRUE(start) << start.error().message;
  EXPECT_EQ(start->sp % 16, 0u);
  auto word = [&](std::size_t i) { return g.get<std::uint64_t>(start->sp + 8 * i); };
  auto text = [&](std::size_t i) { return *g.memory().read_string(word(i), 4096); };
  EXPECT_EQ(word(0), 3u);
  EXPECT_EQ(text(1), path);
  EXPECT_EQ(text(2), "one");
  EXPECT_EQ(text(3), "");
  EXPECT_EQ(word(4), 0u);
  EXPECT_EQ(text(5), "HOME=/nowhere");
  EXPECT_EQ(word(6), 0u);
  std::map<std::uint64_t, std::uint64_t> auxv;
  for (std::size_t i = 7; word(i) != AT_NULL; i += 2) auxv[word(i)] = word(i + 1);
  EXPECT_EQ(auxv[AT_ENTRY], 0x400100u);
  EXPECT_EQ(auxv[AT_PHDR], 0x400040u);
  EXPECT_EQ(auxv[AT_PHNUM], 2u);
  EXPECT_EQ(auxv[AT_PHENT], 56u);
  EXPECT_EQ(auxv[AT_PAGESZ], 4096u);
  EXPECT_EQ(auxv[AT_SECURE], 0u);
  EXPECT_EQ(*g.memory().read_string(auxv[AT_EXECFN], 4096), path);
  EXPECT_EQ(*g.memory().read_string(auxv[AT_PLATFORM], 16), arch::host_abi().machine);
  EXPECT_NE(g.bytes(auxv[AT_RANDOM], 16), std::string(16, '\0'));
  const mm::Gva vdso = auxv[AT_SYSINFO_EHDR];
  EXPECT_EQ(vdso, g.process->image()->vdso);
  EXPECT_GT(vdso, g.process->image()->stack_top);
  EXPECT_LE(vdso + VDSO_PAGE, arch::host_abi().user_end);
  EXPECT_EQ(g.bytes(vdso, 4), "\177ELF");
  const auto image = g.memory().find_region(vdso), data = g.memory().find_region(vdso - VDSO_PAGE);
  EXPECT_EQ(image->name, "[vdso]");
  EXPECT_EQ(image->prot, mm::Prot::Read | mm::Prot::Exec);
  EXPECT_EQ(data->name, "[vvar]");
  EXPECT_EQ(data->prot, mm::Prot::Read);
}

TEST_F(LoaderTest, ArgumentsThatFillTheStackAreRefused) {
  Guest g({});
  auto start = load_it(g, add("prog", program()), {std::string(kStack / 4, 'x')});
  ASSERT_FALSE(start);
  EXPECT_EQ(start.error().status, 126);
}

TEST_F(LoaderTest, AScriptRunsItsInterpreterFromTheShares) {
  scratch.dir("bin");
  add("bin/interp", program());
  Guest g({{scratch.path / "bin", "/bin", false}});
  std::string script = add("script", "#! /bin/interp -x  y \nbody");
  auto start = load_it(g, script, {"argument"});
  ASSERT_TRUE(start) << start.error().message;
  EXPECT_EQ(g.process->image()->arguments, (std::vector<std::string>{"/bin/interp", "-x  y", script, "argument"}));
  EXPECT_EQ(g.process->image()->executable, "/bin/interp");
}

TEST_F(LoaderTest, ScriptsThatNameEachOtherEnd) {
  scratch.dir("bin");
  add("bin/loop", "#!/bin/loop\n");
  expect_refused("/bin/loop", 126, "no interpreter that can run it", {{scratch.path, "/", false}});
}

TEST_F(LoaderTest, WithARootTheProgramIsAGuestPath) {
  scratch.dir("bin");
  add("bin/prog", program());
  Guest g({{scratch.path, "/", false}});
  ASSERT_TRUE(load_it(g, "bin/prog"));
  EXPECT_EQ(g.process->image()->executable, "/bin/prog");
  expect_refused(scratch.path / "bin/prog", 127, "does not exist", {{scratch.path, "/", false}});
}

}  // namespace
}  // namespace ramet::vmm
