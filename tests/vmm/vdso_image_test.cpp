// The image of the vDSO: what a dynamic linker finds in it, and what its functions do with the page of data before it.
#include <elf.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "arch/x86_64/vdso.hpp"

namespace ramet::arch::x86_64 {
namespace {

template <class T>
std::vector<T> read(std::uint64_t offset, std::size_t count = 1) {
  const auto image = vdso_image();
  if (offset > image.size() || count * sizeof(T) > image.size() - offset) throw std::out_of_range("beyond the image");
  std::vector<T> out(count);
  std::memcpy(out.data(), image.data() + offset, count * sizeof(T));
  return out;
}
std::string text(std::uint64_t offset) {
  std::string out;
  for (char c; (c = read<char>(offset).front()) != 0; ++offset) out += c;
  return out;
}
std::uint32_t elf_hash(const std::string& name) {
  std::uint32_t h = 0;
  for (const char c : name) {
    h = (h << 4) + static_cast<unsigned char>(c);
    const std::uint32_t high = h & 0xf0000000;
    h = (h ^ high >> 24) & ~high;
  }
  return h;
}

struct Image {
  Elf64_Ehdr header = read<Elf64_Ehdr>(0).front();
  std::vector<Elf64_Phdr> segments = read<Elf64_Phdr>(header.e_phoff, header.e_phnum);
  std::map<std::int64_t, std::uint64_t> dynamic;
  Image() {
    for (const Elf64_Phdr& s : segments)
      if (s.p_type == PT_DYNAMIC)
        for (const Elf64_Dyn& d : read<Elf64_Dyn>(s.p_offset, s.p_filesz / sizeof(Elf64_Dyn))) dynamic[d.d_tag] = d.d_un.d_val;
  }
  std::string name(std::uint64_t offset) const { return text(dynamic.at(DT_STRTAB) + offset); }
  std::map<std::string, Elf64_Sym> symbols() const {
    std::map<std::string, Elf64_Sym> all;
    const auto count = read<std::uint32_t>(dynamic.at(DT_HASH), 2)[1];
    for (const Elf64_Sym& s : read<Elf64_Sym>(dynamic.at(DT_SYMTAB), count)) all[name(s.st_name)] = s;
    return all;
  }
};

TEST(Vdso, ItIsASharedObjectOfOnePageWithoutRelocations) {
  const Image image;
  EXPECT_LE(vdso_image().size(), std::size_t{VDSO_PAGE});
  EXPECT_EQ(std::memcmp(image.header.e_ident, ELFMAG, SELFMAG), 0);
  EXPECT_EQ(image.header.e_type, ET_DYN);
  EXPECT_EQ(image.header.e_machine, EM_X86_64);
  EXPECT_EQ(image.header.e_phentsize, sizeof(Elf64_Phdr));
  unsigned loaded = 0;
  for (const Elf64_Phdr& s : image.segments) {
    EXPECT_EQ(s.p_offset, s.p_vaddr);
    EXPECT_EQ(s.p_filesz, s.p_memsz);
    EXPECT_LE(s.p_offset + s.p_filesz, vdso_image().size());
    if (s.p_type != PT_LOAD) continue;
    ++loaded;
    EXPECT_EQ(s.p_flags, unsigned{PF_R | PF_X});
    EXPECT_EQ(s.p_filesz, vdso_image().size());
  }
  EXPECT_EQ(loaded, 1u);
  EXPECT_EQ(image.name(image.dynamic.at(DT_SONAME)), "linux-vdso.so.1");
  for (const auto tag : {DT_RELA, DT_REL, DT_JMPREL, DT_NEEDED, DT_TEXTREL}) EXPECT_FALSE(image.dynamic.contains(tag));
}

TEST(Vdso, ItsFunctionsHaveTheNamesAndTheVersionOfLinux) {
  const Image image;
  const auto symbols = image.symbols();
  const auto hash = read<std::uint32_t>(image.dynamic.at(DT_HASH), 2);
  const auto table = read<std::uint32_t>(image.dynamic.at(DT_HASH) + 8, hash[0] + hash[1]);
  const auto versions = read<std::uint16_t>(image.dynamic.at(DT_VERSYM), hash[1]);
  for (const std::string name : {"clock_gettime", "gettimeofday", "time", "clock_getres", "getcpu"}) {
    for (const std::string& called : {"__vdso_" + name, name}) {
      ASSERT_TRUE(symbols.contains(called)) << called;
      const Elf64_Sym& s = symbols.at(called);
      EXPECT_EQ(ELF64_ST_TYPE(s.st_info), STT_FUNC);
      EXPECT_EQ(ELF64_ST_BIND(s.st_info), called == name ? STB_WEAK : STB_GLOBAL);
      EXPECT_NE(s.st_shndx, SHN_UNDEF);
      EXPECT_GT(s.st_size, 0u);
      EXPECT_LE(s.st_value + s.st_size, vdso_image().size());
      EXPECT_EQ(s.st_value, symbols.at(name).st_value);
      std::uint32_t at = table[elf_hash(called) % hash[0]];
      for (unsigned steps = 0; at != 0 && steps < hash[1]; ++steps, at = table[hash[0] + at])
        if (image.name(read<Elf64_Sym>(image.dynamic.at(DT_SYMTAB), hash[1])[at].st_name) == called) break;
      ASSERT_NE(at, 0u) << called << " is not found by its hash";
      EXPECT_EQ(versions[at], 2);
    }
  }
  EXPECT_EQ(symbols.size(), 11u);
  std::uint64_t at = image.dynamic.at(DT_VERDEF);
  std::map<unsigned, std::string> names;
  for (std::uint64_t i = 0; i < image.dynamic.at(DT_VERDEFNUM); ++i) {
    const auto d = read<Elf64_Verdef>(at).front();
    const std::string name = image.name(read<Elf64_Verdaux>(at + d.vd_aux).front().vda_name);
    EXPECT_EQ(d.vd_version, 1);
    EXPECT_EQ(d.vd_hash, elf_hash(name));
    EXPECT_EQ(d.vd_flags, i == 0 ? VER_FLG_BASE : 0);
    names[d.vd_ndx] = name;
    at += d.vd_next;
  }
  EXPECT_EQ(names, (std::map<unsigned, std::string>{{1, "linux-vdso.so.1"}, {2, "LINUX_2.6"}}));
}

// What the table says of the unwinding information is where it is, and covers all functions.
TEST(Vdso, UnwindersFindItsFunctions) {
  const Image image;
  for (const Elf64_Phdr& s : image.segments) {
    if (s.p_type != PT_GNU_EH_FRAME) continue;
    EXPECT_EQ(read<std::uint32_t>(s.p_offset).front(), 0x3b031b01u);
    const auto words = read<std::int32_t>(s.p_offset + 4, 4);
    const std::uint64_t common = s.p_offset + 4 + static_cast<std::uint64_t>(words[0]);
    const std::uint64_t begin = s.p_offset + static_cast<std::uint64_t>(words[2]), entry = s.p_offset + static_cast<std::uint64_t>(words[3]);
    ASSERT_EQ(words[1], 1);
    const auto cie = read<std::uint32_t>(common, 2), fde = read<std::uint32_t>(entry, 4);
    EXPECT_EQ(common + 4 + cie[0], entry);
    EXPECT_EQ(cie[1], 0u);
    EXPECT_EQ(entry + 4 - fde[1], common);
    EXPECT_EQ(entry + 8 + static_cast<std::uint64_t>(static_cast<std::int32_t>(fde[2])), begin);
    EXPECT_EQ(read<std::uint32_t>(entry + 4 + fde[0]).front(), 0u) << "the end of the list";
    for (const auto& [name, symbol] : image.symbols()) {
      if (name.empty()) continue;
      EXPECT_GE(symbol.st_value, begin) << name;
      EXPECT_LE(symbol.st_value + symbol.st_size, begin + fde[3]) << name;
    }
    return;
  }
  FAIL() << "it has none";
}

// --- its functions, on a host's that we know ---

thread_local unsigned calls;
int host_clock_gettime(clockid_t clock, timespec* t) {
  ++calls;
  if (clock == CLOCK_TAI) return -EINVAL;
  *t = {1000 + clock, 999'999'999};
  return 0;
}
int host_clock_getres(clockid_t, timespec* t) {
  ++calls;
  if (t) *t = {0, 77};
  return 0;
}
int host_gettimeofday(timeval* t, void*) {
  ++calls;
  *t = {11, 22};
  return 0;
}
time_t host_time(time_t* t) {
  ++calls;
  if (t) *t = 33;
  return 33;
}
int host_getcpu(unsigned* cpu, unsigned*, void*) {
  ++calls;
  *cpu = 44;
  return 0;
}

template <class F>
std::uint64_t address(F* f) {
  return reinterpret_cast<std::uint64_t>(f);
}

class VdsoCalls : public ::testing::Test {
 protected:
  VdsoCalls() {
    pages_ = static_cast<std::byte*>(::mmap(nullptr, 2 * VDSO_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    std::memcpy(pages_ + VDSO_PAGE, vdso_image().data(), vdso_image().size());
    if (::mprotect(pages_ + VDSO_PAGE, VDSO_PAGE, PROT_READ | PROT_EXEC) != 0) std::abort();
    symbols_ = Image().symbols();
    calls = 0;
  }
  ~VdsoCalls() override { ::munmap(pages_, 2 * VDSO_PAGE); }
  void set(const VdsoData& data) { std::memcpy(pages_, &data, sizeof data); }
  template <class F>
  F* function(const std::string& name, F*) {
    return reinterpret_cast<F*>(pages_ + VDSO_PAGE + symbols_.at(name).st_value);
  }
  int gettime(clockid_t clock, timespec* t) { return function("clock_gettime", host_clock_gettime)(clock, t); }
  int getres(clockid_t clock, timespec* t) { return function("clock_getres", host_clock_getres)(clock, t); }
  static VdsoData with_host() {
    VdsoData data;
    data.host = {address(host_clock_gettime), address(host_clock_getres), address(host_gettimeofday), address(host_time), address(host_getcpu)};
    return data;
  }

  std::byte* pages_;
  std::map<std::string, Elf64_Sym> symbols_;
};

TEST_F(VdsoCalls, WithoutAHostsTheyMakeTheSystemCall) {
  set({});
  timespec before, t, after;
  ::syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &before);
  ASSERT_EQ(gettime(CLOCK_MONOTONIC, &t), 0);
  ::syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &after);
  const auto nanos = [](timespec v) { return v.tv_sec * 1'000'000'000 + v.tv_nsec; };
  EXPECT_LE(nanos(before), nanos(t));
  EXPECT_LE(nanos(t), nanos(after));
  EXPECT_EQ(getres(CLOCK_MONOTONIC, &t), 0);
  timeval v{};
  EXPECT_EQ(function("gettimeofday", host_gettimeofday)(&v, nullptr), 0);
  EXPECT_GT(v.tv_sec, 1'000'000'000);
  // time(2) tells of the clock's last tick, as the coarse clock does: it may be a second behind gettimeofday(2).
  ::syscall(SYS_clock_gettime, CLOCK_REALTIME_COARSE, &before);
  const auto seconds = function("time", host_time)(nullptr);
  ::syscall(SYS_clock_gettime, CLOCK_REALTIME_COARSE, &after);
  EXPECT_GE(seconds, before.tv_sec);
  EXPECT_LE(seconds, after.tv_sec);
  unsigned cpu = ~0u;
  EXPECT_EQ(function("getcpu", host_getcpu)(&cpu, nullptr, nullptr), 0);
  EXPECT_NE(cpu, ~0u);
  EXPECT_EQ(calls, 0u);
}

TEST_F(VdsoCalls, TheHostsAreAskedForTheClocksThatTheyTellAndNoOthers) {
  VdsoData data = with_host();
  data.same = 1u << CLOCK_REALTIME | 1u << CLOCK_BOOTTIME;
  set(data);
  for (clockid_t clock = -70; clock < 140; ++clock) {
    calls = 0;
    timespec t{};
    const bool told = clock == CLOCK_REALTIME || clock == CLOCK_BOOTTIME;
    (void)gettime(clock, &t);
    EXPECT_EQ(calls, told ? 1u : 0u) << clock;
    EXPECT_EQ(t.tv_sec == 1000 + clock, told) << clock;
    (void)getres(clock, &t);
    EXPECT_EQ(calls, told ? 2u : 0u) << clock;
  }
  calls = 0;
  timeval v;
  EXPECT_EQ(function("gettimeofday", host_gettimeofday)(&v, nullptr), 0);
  EXPECT_EQ(v.tv_usec, 22);
  struct timezone zone;
  EXPECT_EQ(function("gettimeofday", host_gettimeofday)(&v, &zone), 0);
  EXPECT_NE(v.tv_sec, 11) << "a time zone is asked of the VMM";
  time_t stored = 0;
  EXPECT_EQ(function("time", host_time)(&stored), 33);
  EXPECT_EQ(stored, 33);
  unsigned cpu = 0;
  EXPECT_EQ(function("getcpu", host_getcpu)(&cpu, nullptr, nullptr), 0);
  EXPECT_EQ(cpu, 44u);
  EXPECT_EQ(calls, 3u);
}

TEST_F(VdsoCalls, OffsetsAreAddedToTheClocksThatHaveSome) {
  VdsoData data = with_host();
  data.same = 1u << CLOCK_REALTIME;
  data.moved = 1u << CLOCK_MONOTONIC | 1u << CLOCK_BOOTTIME | 1u << CLOCK_TAI;
  data.offsets[CLOCK_REALTIME] = {500, 500};
  data.offsets[CLOCK_MONOTONIC] = {-900, 1};      // carries
  data.offsets[CLOCK_BOOTTIME] = {7, 0};          // does not
  set(data);
  timespec t{};
  ASSERT_EQ(gettime(CLOCK_REALTIME, &t), 0);
  EXPECT_EQ(t.tv_sec, 1000) << "this one is the host's own";
  ASSERT_EQ(gettime(CLOCK_MONOTONIC, &t), 0);
  EXPECT_EQ(t.tv_sec, 1000 + CLOCK_MONOTONIC - 900 + 1);
  EXPECT_EQ(t.tv_nsec, 0);
  ASSERT_EQ(gettime(CLOCK_BOOTTIME, &t), 0);
  EXPECT_EQ(t.tv_sec, 1000 + CLOCK_BOOTTIME + 7);
  EXPECT_EQ(t.tv_nsec, 999'999'999);
  t = {5, 6};
  EXPECT_EQ(gettime(CLOCK_TAI, &t), -EINVAL);
  EXPECT_EQ(t.tv_sec, 5) << "nothing is added to an error";
  calls = 0;
  EXPECT_EQ(getres(CLOCK_MONOTONIC, &t), 0);
  EXPECT_EQ(t.tv_nsec, 77);
  EXPECT_EQ(calls, 1u);
}

}  // namespace
}  // namespace ramet::arch::x86_64
