// The images of the vDSOs: what a dynamic linker finds in them, and what x86-64's functions do with the page of data
// before it.
#include <elf.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arch/arm64/guest_abi.hpp"
#include "arch/arm64/vdso.hpp"
#include "arch/x86_64/vdso.hpp"

namespace ramet::arch {
namespace {

// What Linux of one instruction set has in its vDSO.
struct Twin {
  const char* name;
  std::span<const std::byte> image;
  unsigned machine;
  const char* version;
  struct Function {
    const char *name, *alias;        // a function, and its weak symbol if it has one
    unsigned type = STT_FUNC;
    bool unwound = true;             // by the table: else unwinders know the function by its instructions
  };
  std::vector<Function> functions;
};

class Image {
 public:
  explicit Image(std::span<const std::byte> bytes) : bytes_(bytes) {
    for (const Elf64_Phdr& s : segments)
      if (s.p_type == PT_DYNAMIC)
        for (const Elf64_Dyn& d : read<Elf64_Dyn>(s.p_offset, s.p_filesz / sizeof(Elf64_Dyn)))
          dynamic[d.d_tag] = d.d_un.d_val;
  }
  template <class T>
  std::vector<T> read(std::uint64_t offset, std::size_t count = 1) const {
    if (offset > bytes_.size() || count * sizeof(T) > bytes_.size() - offset)
      throw std::out_of_range("beyond the image");
    std::vector<T> out(count);
    std::memcpy(out.data(), bytes_.data() + offset, count * sizeof(T));
    return out;
  }
  std::string name(std::uint64_t offset) const {
    std::string out;
    offset += dynamic.at(DT_STRTAB);
    for (char c; (c = read<char>(offset).front()) != 0; ++offset) out += c;
    return out;
  }
  std::map<std::string, Elf64_Sym> symbols() const {
    std::map<std::string, Elf64_Sym> all;
    const auto count = read<std::uint32_t>(dynamic.at(DT_HASH), 2)[1];
    for (const Elf64_Sym& s : read<Elf64_Sym>(dynamic.at(DT_SYMTAB), count)) all[name(s.st_name)] = s;
    return all;
  }

 private:
  std::span<const std::byte> bytes_;

 public:
  Elf64_Ehdr header = read<Elf64_Ehdr>(0).front();
  std::vector<Elf64_Phdr> segments = read<Elf64_Phdr>(header.e_phoff, header.e_phnum);
  std::map<std::int64_t, std::uint64_t> dynamic;
};

std::uint32_t elf_hash(const std::string& name) {
  std::uint32_t h = 0;
  for (const char c : name) {
    h = (h << 4) + static_cast<unsigned char>(c);
    const std::uint32_t high = h & 0xf0000000;
    h = (h ^ high >> 24) & ~high;
  }
  return h;
}

class Vdso : public ::testing::TestWithParam<Twin> {
 protected:
  const Twin& twin = GetParam();
  const Image image{twin.image};
};
INSTANTIATE_TEST_SUITE_P(Twins, Vdso,
                         ::testing::Values(Twin{"x86_64",
                                                x86_64::vdso_image(),
                                                EM_X86_64,
                                                "LINUX_2.6",
                                                {{"__vdso_clock_gettime", "clock_gettime"},
                                                 {"__vdso_gettimeofday", "gettimeofday"},
                                                 {"__vdso_time", "time"},
                                                 {"__vdso_clock_getres", "clock_getres"},
                                                 {"__vdso_getcpu", "getcpu"}}},
                                           Twin{"arm64",
                                                arm64::vdso_image(),
                                                EM_AARCH64,
                                                "LINUX_2.6.39",
                                                {{"__kernel_rt_sigreturn", nullptr, STT_NOTYPE, false},
                                                 {"__kernel_gettimeofday", nullptr},
                                                 {"__kernel_clock_gettime", nullptr},
                                                 {"__kernel_clock_getres", nullptr}}}),
                         [](const auto& twin) { return std::string(twin.param.name); });

TEST_P(Vdso, ItIsASharedObjectOfOnePageWithoutRelocations) {
  EXPECT_LE(twin.image.size(), std::size_t{VDSO_PAGE});
  EXPECT_EQ(std::memcmp(image.header.e_ident, ELFMAG, SELFMAG), 0);
  EXPECT_EQ(image.header.e_type, ET_DYN);
  EXPECT_EQ(image.header.e_machine, twin.machine);
  EXPECT_EQ(image.header.e_phentsize, sizeof(Elf64_Phdr));
  unsigned loaded = 0;
  for (const Elf64_Phdr& s : image.segments) {
    EXPECT_EQ(s.p_offset, s.p_vaddr);
    EXPECT_EQ(s.p_filesz, s.p_memsz);
    EXPECT_LE(s.p_offset + s.p_filesz, twin.image.size());
    if (s.p_type != PT_LOAD) continue;
    ++loaded;
    EXPECT_EQ(s.p_flags, unsigned{PF_R | PF_X});
    EXPECT_EQ(s.p_filesz, twin.image.size());
  }
  EXPECT_EQ(loaded, 1u);
  EXPECT_EQ(image.name(image.dynamic.at(DT_SONAME)), "linux-vdso.so.1");
  for (const auto tag : {DT_RELA, DT_REL, DT_JMPREL, DT_NEEDED, DT_TEXTREL}) EXPECT_FALSE(image.dynamic.contains(tag));
}

TEST_P(Vdso, ItsFunctionsHaveTheNamesAndTheVersionOfLinux) {
  const auto symbols = image.symbols();
  const auto hash = image.read<std::uint32_t>(image.dynamic.at(DT_HASH), 2);
  const auto table = image.read<std::uint32_t>(image.dynamic.at(DT_HASH) + 8, hash[0] + hash[1]);
  const auto versions = image.read<std::uint16_t>(image.dynamic.at(DT_VERSYM), hash[1]);
  const auto check = [&](const Twin::Function& function, const std::string& called, unsigned bind) {
    ASSERT_TRUE(symbols.contains(called)) << called;
    const Elf64_Sym& s = symbols.at(called);
    EXPECT_EQ(ELF64_ST_TYPE(s.st_info), function.type) << called;
    EXPECT_EQ(ELF64_ST_BIND(s.st_info), bind) << called;
    EXPECT_NE(s.st_shndx, SHN_UNDEF);
    EXPECT_GT(s.st_size, 0u);
    EXPECT_LE(s.st_value + s.st_size, twin.image.size());
    EXPECT_EQ(s.st_value, symbols.at(function.name).st_value);
    std::uint32_t at = table[elf_hash(called) % hash[0]];
    for (unsigned steps = 0; at != 0 && steps < hash[1]; ++steps, at = table[hash[0] + at])
      if (image.name(image.read<Elf64_Sym>(image.dynamic.at(DT_SYMTAB), hash[1])[at].st_name) == called) break;
    ASSERT_NE(at, 0u) << called << " is not found by its hash";
    EXPECT_EQ(versions[at], 2);
  };
  std::size_t count = 1;  // the first is none
  for (const Twin::Function& function : twin.functions) {
    check(function, function.name, STB_GLOBAL);
    if (function.alias) check(function, function.alias, STB_WEAK);
    count += function.alias ? 2 : 1;
  }
  EXPECT_EQ(symbols.size(), count);
  std::uint64_t at = image.dynamic.at(DT_VERDEF);
  std::map<unsigned, std::string> names;
  for (std::uint64_t i = 0; i < image.dynamic.at(DT_VERDEFNUM); ++i) {
    const auto d = image.read<Elf64_Verdef>(at).front();
    const std::string name = image.name(image.read<Elf64_Verdaux>(at + d.vd_aux).front().vda_name);
    EXPECT_EQ(d.vd_version, 1);
    EXPECT_EQ(d.vd_hash, elf_hash(name));
    EXPECT_EQ(d.vd_flags, i == 0 ? VER_FLG_BASE : 0);
    names[d.vd_ndx] = name;
    at += d.vd_next;
  }
  EXPECT_EQ(names, (std::map<unsigned, std::string>{{1, "linux-vdso.so.1"}, {2, twin.version}}));
}

// What the table says of the unwinding information is where it is, and covers all functions that it is to cover.
TEST_P(Vdso, UnwindersFindItsFunctions) {
  for (const Elf64_Phdr& s : image.segments) {
    if (s.p_type != PT_GNU_EH_FRAME) continue;
    EXPECT_EQ(image.read<std::uint32_t>(s.p_offset).front(), 0x3b031b01u);
    const auto words = image.read<std::int32_t>(s.p_offset + 4, 4);
    const std::uint64_t common = s.p_offset + 4 + static_cast<std::uint64_t>(words[0]);
    const std::uint64_t begin = s.p_offset + static_cast<std::uint64_t>(words[2]),
                        entry = s.p_offset + static_cast<std::uint64_t>(words[3]);
    ASSERT_EQ(words[1], 1);
    const auto cie = image.read<std::uint32_t>(common, 2), fde = image.read<std::uint32_t>(entry, 4);
    EXPECT_EQ(common + 4 + cie[0], entry);
    EXPECT_EQ(cie[1], 0u);
    EXPECT_EQ(entry + 4 - fde[1], common);
    EXPECT_EQ(entry + 8 + static_cast<std::uint64_t>(static_cast<std::int32_t>(fde[2])), begin);
    EXPECT_EQ(image.read<std::uint32_t>(entry + 4 + fde[0]).front(), 0u) << "the end of the list";
    for (const Twin::Function& function : twin.functions) {
      const Elf64_Sym symbol = image.symbols().at(function.name);
      const bool inside = symbol.st_value >= begin && symbol.st_value + symbol.st_size <= begin + fde[3];
      const bool outside = symbol.st_value + symbol.st_size <= begin || symbol.st_value >= begin + fde[3];
      EXPECT_TRUE(function.unwound ? inside : outside) << function.name;
    }
    return;
  }
  FAIL() << "it has none";
}

// Nothing runs them here. Unwinders know the first one by these two instructions, and look before its address, too.
TEST(VdsoOfArm64, ItsFunctionsMakeTheirSystemCalls) {
  constexpr std::uint32_t kSvc = 0xd4000001, kRet = 0xd65f03c0, kNop = 0xd503201f;
  const auto move_x8 = [](std::uint32_t number) { return 0xd2800008 | number << 5; };
  const Image image(arm64::vdso_image());
  const auto symbols = image.symbols();
  const auto code = [&](const char* name, std::size_t words) {
    return image.read<std::uint32_t>(symbols.at(name).st_value, words);
  };
  const std::uint64_t back = symbols.at("__kernel_rt_sigreturn").st_value;
  EXPECT_EQ(back, arm64::vdso_rt_sigreturn());
  EXPECT_EQ(image.read<std::uint32_t>(back - 4, 3), (std::vector<std::uint32_t>{kNop, 0xd2801168, kSvc}));
  const std::pair<const char*, Call> functions[] = {{"__kernel_gettimeofday", Call::gettimeofday},
                                                    {"__kernel_clock_gettime", Call::clock_gettime},
                                                    {"__kernel_clock_getres", Call::clock_getres}};
  for (const auto& [name, call] : functions) {
    const auto words = code(name, 3);
    const std::uint32_t number = words[0] >> 5 & 0xffff;
    EXPECT_EQ(words, (std::vector<std::uint32_t>{move_x8(number), kSvc, kRet})) << name;
    EXPECT_EQ(arm64::kGuestAbi.call_of(number), call) << name;
  }
}

// --- x86-64's functions, on a host's that we know ---

using x86_64::vdso_image;

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
    pages_ = static_cast<std::byte*>(
        ::mmap(nullptr, 2 * VDSO_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    std::memcpy(pages_ + VDSO_PAGE, vdso_image().data(), vdso_image().size());
    if (::mprotect(pages_ + VDSO_PAGE, VDSO_PAGE, PROT_READ | PROT_EXEC) != 0) std::abort();
    symbols_ = Image(vdso_image()).symbols();
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
    data.host = {address(host_clock_gettime), address(host_clock_getres), address(host_gettimeofday),
                 address(host_time), address(host_getcpu)};
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
}  // namespace ramet::arch
