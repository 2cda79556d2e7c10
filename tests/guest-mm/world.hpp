// One VM's memory with fake vCPUs, for every entry format; and an object to map.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <ostream>
#include <set>
#include <vector>

#include "guest-mm/address_space.hpp"
#include "guest-mm/frozen_memory.hpp"
#include "tests/guest-mm/model_tlb.hpp"
#include "tests/scaled.hpp"

namespace ramet::mm {
inline void PrintTo(Error e, std::ostream* out) { *out << describe(e); }
inline void PrintTo(Format f, std::ostream* out) {
  *out << (f == Format::X86_64Stage1 ? "X86_64Stage1" : f == Format::Arm64Stage1 ? "Arm64Stage1" : "Arm64Stage2");
}
}  // namespace ramet::mm

namespace ramet::mm::test {

inline constexpr Prot kRead = Prot::Read, kReadWrite = Prot::Read | Prot::Write, kReadExec = Prot::Read | Prot::Exec;
inline constexpr std::uint64_t kMiB = 1 << 20;
inline constexpr Gva kLinear = 0xffff'8000'0000'0000;  // where tests put a linear map

struct World {
  struct Options {
    std::uint64_t data = 64 * kMiB, tables = 4 * kMiB;
    unsigned vcpus = 2;
    AddressSpace::Config config = {};
    std::shared_ptr<PhysicalSpace> space = {};  // of VMs that share memory
    bool flags_by_fault = false;                // of arm64: see ModelTlb
    bool files = false;                         // the private bank is in memory files
    std::shared_ptr<InstructionCache> instructions = std::make_shared<InstructionCache>();
  };
  explicit World(Format format) : World(format, Options()) {}
  World(Format format, Options options) : tlb(format, options.instructions) {
    memory = std::move(*Memory::create(
        {.data_bytes = options.data, .table_bytes = options.tables, .space = options.space, .files = options.files}));
    options.config.format = format;
    tlb.flags_by_fault = options.flags_by_fault && format != Format::X86_64Stage1;
    as = std::move(*AddressSpace::create(options.config, *memory, tlb));
    tlb.attach(*as, options.vcpus);
    empty_tables = as->usage().table_pages;
  }

  // The state every scenario must end in, whatever it did: books that agree, and no stale entry anywhere.
  void check() {
    as->flush_deferred();
    EXPECT_EQ(as->audit(), "");
    EXPECT_EQ(tlb.verify(), "");
    EXPECT_EQ(tlb.conflicts, 0u);
    const Counters& c = as->counters();
    EXPECT_EQ(c.faults,
              c.faults_zero + c.faults_file + c.faults_flipped + c.faults_cow + c.faults_spurious + c.faults_refused);
  }
  // And after everything is unmapped nothing is left.
  void check_empty() {
    EXPECT_TRUE(as->unmap(kPageSize, 0x7fff'ffff'e000));
    check();
    const Usage u = as->usage();
    EXPECT_EQ(u.data_pages_4k + u.data_blocks_2m + u.shared_pages, 0u);
    EXPECT_EQ(u.table_pages, empty_tables);
  }

  Gva map(std::uint64_t length, Prot prot = kReadWrite) {
    const auto at = as->map({.length = length, .prot = prot});
    EXPECT_TRUE(at);
    return at.value_or(0);
  }
  Gva map_at(Gva address, std::uint64_t length, Prot prot = kReadWrite) {
    const auto at = as->map({.address = address, .length = length, .prot = prot, .fixed = true});
    EXPECT_TRUE(at);
    return at.value_or(0);
  }
  FakeVcpu& cpu(unsigned i = 0) { return tlb.vcpu(i); }
  std::uint64_t frames() const {
    const Usage u = as->usage();
    return u.data_pages_4k + 512 * u.data_blocks_2m;
  }

  ModelTlb tlb;  // outlives the address space
  std::unique_ptr<Memory> memory;
  std::unique_ptr<AddressSpace> as;
  std::uint64_t empty_tables = 0;
};

// VMs that share memory, each of which may be grown from another's snapshot.
struct Genet {
  explicit Genet(Format format, AddressSpace::Config config = {}) : format(format), config(config) {}
  std::unique_ptr<World> make(unsigned vcpus = 3) const {
    return std::make_unique<World>(format, World::Options{.vcpus = vcpus,
                                                          .config = config,
                                                          .space = space,
                                                          .flags_by_fault = flags_by_fault,
                                                          .instructions = instructions});
  }
  std::unique_ptr<World> child(const std::shared_ptr<const FrozenMemory>& of) const {
    auto w = make();
    const auto done = w->as->adopt(of);
    EXPECT_TRUE(done) << describe(done.error());
    return w;
  }
  Format format;
  AddressSpace::Config config;
  bool flags_by_fault = false;
  std::shared_ptr<PhysicalSpace> space = std::make_shared<PhysicalSpace>();
  std::shared_ptr<InstructionCache> instructions = std::make_shared<InstructionCache>();
};

// An object to map, privately or shared: a memory file is behind it.
class TestFile : public Backing {
 public:
  TestFile(Memory& memory, std::uint64_t size) : size_(size) {
    fd_ = ::memfd_create("test", MFD_CLOEXEC);
    capacity_ = align_up(size, kPageSize);
    EXPECT_EQ(::ftruncate(fd_, static_cast<off_t>(capacity_)), 0);
    void* at = ::mmap(nullptr, capacity_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    bytes_ = static_cast<std::byte*>(at);
    for (std::uint64_t i = 0; i < size; ++i) bytes_[i] = byte_at(i);
    const std::uint64_t mapped = capacity_;
    bank_ = *memory.make_bank({bytes_, capacity_}, [at, mapped] { ::munmap(at, mapped); });
  }
  ~TestFile() override { ::close(fd_); }
  static std::byte byte_at(std::uint64_t i) { return static_cast<std::byte>(i / 4096 * 7 + i % 251 + 1); }
  static std::uint64_t word_at(std::uint64_t i) {
    std::uint64_t word;
    std::byte b[8];
    for (unsigned k = 0; k < 8; ++k) b[k] = byte_at(i + k);
    std::memcpy(&word, b, 8);
    return word;
  }

  std::uint64_t size() const override { return size_; }
  Result<> read(std::uint64_t offset, std::span<std::byte> dst) override {
    ++reads;
    if (broken) return fail(Error::Io);
    const std::uint64_t n = offset < size_ ? std::min<std::uint64_t>(dst.size(), size_ - offset) : 0;
    std::memcpy(dst.data(), bytes_ + offset, n);
    std::memset(dst.data() + n, 0, dst.size() - n);
    return {};
  }
  Shared shared() const override { return {bank_, 0}; }
  Result<> sync(std::uint64_t offset, std::uint64_t length, bool) override {
    synced.push_back({offset, length});
    return {};
  }
  // The object shrinks, as ftruncate(2) by somebody else would do it.
  void shrink(std::uint64_t size) {
    size_ = size;
    EXPECT_EQ(::ftruncate(fd_, static_cast<off_t>(align_up(size, kPageSize))), 0);
  }
  std::byte* bytes() { return bytes_; }

  bool broken = false;
  unsigned reads = 0;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> synced;
  std::uint64_t size_;

 private:
  int fd_ = -1;
  std::uint64_t capacity_ = 0;
  std::byte* bytes_ = nullptr;
  std::shared_ptr<Bank> bank_;
};

// A file whose reads can be held up.
class SlowFile : public TestFile {
 public:
  using TestFile::TestFile;
  Result<> read(std::uint64_t offset, std::span<std::byte> out) override {
    std::unique_lock guard(lock_);
    if (hold_) {
      waiting_ = true;
      changed_.notify_all();
      changed_.wait(guard, [&] { return !hold_; });
    }
    return TestFile::read(offset, out);
  }
  void hold() { hold_ = true; }
  void wait_for_reader() {
    std::unique_lock guard(lock_);
    changed_.wait(guard, [&] { return waiting_; });
  }
  void release() {
    std::lock_guard guard(lock_);
    hold_ = false;
    changed_.notify_all();
  }

 private:
  std::mutex lock_;
  std::condition_variable changed_;
  bool hold_ = false, waiting_ = false;
};

// A machine that has no room for a bank if `refuse` says so, and notes which banks it has.
struct FullMachine : BankObserver {
  Result<> bank_added(const Bank& bank) override {
    if (refuse && refuse(bank)) return fail(Error::NoMemory);
    known.insert(bank.base());
    return {};
  }
  void bank_removed(const Bank& bank) override { known.erase(bank.base()); }
  std::function<bool(const Bank&)> refuse;
  std::set<Gpa> known;
};

// Uses up tables until `left` are free: maps pages of one file, each in a table of its own.
inline void use_up_tables(World& w, unsigned left) {
  const auto file = std::make_shared<TestFile>(*w.memory, kPageSize);
  const Usage before = w.as->usage();
  Gva at = 0x7000'0000'0000;
  for (std::uint64_t n = before.table_pages; n + left < before.table_limit_pages; n = w.as->usage().table_pages) {
    ASSERT_TRUE(w.as->map(
        {.address = at, .length = kPageSize, .prot = Prot::Read, .fixed = true, .shared = true, .backing = file}));
    ASSERT_TRUE(w.cpu().load(at));
    at += kBlockSize;
  }
}

// Guest memory as a device reaches it, without the checks of the VMM's accesses.
inline std::byte* as_device(const HostRange& range, std::uint64_t offset = 0) {
  return static_cast<std::byte*>(range.bytes.address(offset));
}

using ramet::test::scaled;

// Scenarios run once for each entry format. With sanitizers not for stage 2, whose code is that of arm64's stage 1 with
// other bits: fuzzing and its corpus cover that.
#if defined(RAMET_SANITIZED)
inline constexpr Format kFormats[] = {Format::X86_64Stage1, Format::Arm64Stage1};
#else
inline constexpr Format kFormats[] = {Format::X86_64Stage1, Format::Arm64Stage1, Format::Arm64Stage2};
#endif
class ForEachFormat : public ::testing::TestWithParam<Format> {};
#define RAMET_FOR_EACH_FORMAT(suite)                                                         \
  INSTANTIATE_TEST_SUITE_P(Formats, suite, ::testing::ValuesIn(::ramet::mm::test::kFormats), \
                           ::testing::PrintToStringParamName())

}  // namespace ramet::mm::test
