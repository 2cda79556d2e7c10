// Snapshot files by themselves: what is damaged, cut, foreign or hostile is refused with the reason.
#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "arch/arm64/guest_abi.hpp"
#include "arch/x86_64/guest_abi.hpp"
#include "tests/scaled.hpp"
#include "tests/vmm/files_guest.hpp"
#include "tests/vmm/need_kvm.hpp"
#include "vmm/run.hpp"
#include "vmm/snapshot/pager.hpp"
#include "vmm/snapshot/restore.hpp"
#include "vmm/snapshot/writer.hpp"

namespace ramet::vmm::snapshot {
namespace {

using Page = std::array<std::byte, kPageBytes>;

Page page(unsigned n) {
  Page p;
  std::mt19937 random(n);
  for (auto& b : p) b = static_cast<std::byte>(random() % 7);
  return p;
}

class SnapshotFile : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return scratch.path / name; }

  // With so many pages, mapped nowhere.
  std::string write(const std::string& name, unsigned pages, bool compress, const Hash& parent = {},
                    const ProcessState& state = {}) {
    auto writer = *Writer::create(path(name), abi, compress);
    for (unsigned i = 0; i < pages; ++i) EXPECT_TRUE(writer->add(page(i)));
    EXPECT_TRUE(writer->finish(*snapshot::to_text(state), {}, parent));
    return path(name);
  }
  std::string bytes(const std::string& name) const { return scratch.text(name); }
  void put(const std::string& name, const std::string& bytes) const { scratch.file(name, bytes); }

  // Why a file with these bytes is no good; empty: it is good.
  std::string refused(const std::string& bytes) {
    put("tried", bytes);
    auto file = File::open(path("tried"));
    if (!file) return file.error().message;
    auto good = (*file)->verify();
    return good ? "" : good.error().message;
  }
  // The header changed, and right again.
  std::string with_header(std::string all, const std::function<void(Header&)>& change) {
    Header h;
    std::memcpy(&h, all.data(), sizeof h);
    change(h);
    h.identity = identity_of(h);
    std::memcpy(all.data(), &h, sizeof h);
    return all;
  }
  static bool says(const std::string& message, const std::string& part) {
    if (message.find(part) != message.npos) return true;
    ADD_FAILURE() << "'" << message << "' does not say '" << part << "'";
    return false;
  }

  Scratch scratch;
  const arch::GuestAbi& abi = arch::x86_64::kGuestAbi;
};

TEST_F(SnapshotFile, EveryFlippedBitIsFound) {
  for (const bool compress : {false, true}) {
    const std::string name = write("file", 70, compress);
    const std::string good = bytes("file");
    const auto refused_now = [&] {
      const auto file = File::open(name);
      return !file || !(*file)->verify();
    };
    ASSERT_FALSE(refused_now());
    HostFd fd(::open(name.c_str(), O_RDWR | O_CLOEXEC));
    std::mt19937 random(1);
    // All of what the header says, much of the lists, some of the pages.
    for (std::size_t i = 0; i < good.size(); i += i < 160                  ? 1
                                                  : i + 2000 > good.size() ? 1 + random() % 10
                                                                           : 1 + random() % 2000) {
      const auto bad = static_cast<char>(good[i] ^ 1 << random() % 8);
      ASSERT_EQ(::pwrite(fd.get(), &bad, 1, static_cast<off_t>(i)), 1);
      ASSERT_TRUE(refused_now()) << "byte " << i << " of " << good.size();
      ASSERT_EQ(::pwrite(fd.get(), &good[i], 1, static_cast<off_t>(i)), 1);
    }
  }
}

TEST_F(SnapshotFile, IsRefusedIfCutShortOrLonger) {
  write("file", 3, false);
  const std::string good = bytes("file");
  for (std::size_t length = 0; length < good.size(); length += 97)
    ASSERT_NE(refused(good.substr(0, length)), "") << length;
  ASSERT_NE(refused(good + "x"), "");
}

TEST_F(SnapshotFile, OfAnotherVersionIsRefused) {
  write("file", 1, false);
  says(refused(with_header(bytes("file"), [](Header& h) { h.version = 7; })), "version 7");
  says(refused(with_header(bytes("file"), [](Header& h) { h.magic[0] = 'X'; })), "not a snapshot");
  says(refused(with_header(bytes("file"), [](Header& h) { h.flags = 8; })), "flags");
}

TEST_F(SnapshotFile, OfAnotherInstructionSetIsRefused) {
  write("file", 1, false);
  says(refused(with_header(bytes("file"), [](Header& h) { h.machine = EM_RISCV; })),
       "a program for RISC-V, which this ramet does not know");
  says(refused(with_header(bytes("file"), [](Header& h) { h.machine = 0x10000 | EM_X86_64; })), "machine number 65598");
  for (const auto* saved : {&arch::x86_64::kGuestAbi, &arch::arm64::kGuestAbi})
    for (const auto* here : {&arch::x86_64::kGuestAbi, &arch::arm64::kGuestAbi}) {
      auto writer = *Writer::create(path("file"), *saved, false);
      ASSERT_TRUE(writer->finish(*snapshot::to_text(ProcessState{}), {}, {}));
      const auto file = *File::open(path("file"));
      EXPECT_EQ(&file->abi(), saved);
      const auto served = check_instruction_set(*file, *here);
      EXPECT_EQ(served.has_value(), saved == here);
      if (!served)
        says(served.error().message,
             std::string("for ") + saved->name + "; this machine runs " + here->name + " programs");
    }
}

TEST_F(SnapshotFile, FlagsOfOpenFilesAreTheProgramsInTheFileAndTheHostsOutside) {
  for (const auto* saved : {&arch::x86_64::kGuestAbi, &arch::arm64::kGuestAbi}) {
    ProcessState state;
    FileState& file = state.files.emplace_back();
    file.path = "/", file.flags = static_cast<int>(saved->open.directory | saved->open.nofollow) | O_NONBLOCK;
    auto writer = *Writer::create(path("file"), *saved, false);
    ASSERT_TRUE(writer->finish(*snapshot::to_text(state), {}, {}));
    EXPECT_EQ((*File::open(path("file")))->state().files.at(0).flags, O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK)
        << saved->name;
  }
}

TEST_F(SnapshotFile, PartsThatLieElsewhereAreRefused) {
  write("file", 3, false);
  std::mt19937 random(2);
  for (int i = 0; i < 300; ++i) {
    const std::string bad = with_header(bytes("file"), [&](Header& h) {
      auto* words = reinterpret_cast<std::uint64_t*>(&h);
      const std::uint64_t values[] = {0,     1,           8,          4096,         random(),
                                      ~0ull, ~0ull << 12, 1ull << 63, words[2] + 8, words[2] - 8};
      words[2 + random() % 14] = values[random() % std::size(values)];
    });
    refused(bad);  // whatever it says, it comes back
  }
}

TEST_F(SnapshotFile, NeedsItsParent) {
  const auto parent = *File::open(write("parent", 2, false));
  ProcessState state;
  state.parent = "/nowhere/parent";  // beside the file it is found as well
  const auto child = File::open(write("child", 1, false, parent->header().identity, state));
  ASSERT_TRUE(child) << child.error().message;
  EXPECT_EQ((*child)->source(1)->path(), path("parent"));
  EXPECT_EQ((*child)->source(2), nullptr);
  write("parent", 3, false);
  const auto other = File::open(path("child"));
  ASSERT_FALSE(other);
  says(other.error().message, "needs another parent");
  fs::remove(path("parent"));
  const auto none = File::open(path("child"));
  ASSERT_FALSE(none);
  says(none.error().message, "needs its parent");
}

TEST_F(SnapshotFile, OfAnotherProcessorIsRefused) {
  ProcessState state;
  state.processor = {"Old", "fpu sse2", 7, 832};
  const auto file = *File::open(write("file", 1, false, {}, state));
  Machine::Features here{.fp = {.components = 7, .bytes = 832}, .model_name = "New", .flags = "avx fpu sse2"};
  EXPECT_TRUE(check_processor(*file, here));
  here.flags = "fpu avx";
  says(check_processor(*file, here).error().message, "has not sse2");
  here.flags = "fpu sse2", here.fp.components = 3;
  says(check_processor(*file, here).error().message, "another layout");
}

TEST_F(SnapshotFile, IsWrittenWhollyOrNotAtAll) {
  put("file", "before");
  {
    auto writer = *Writer::create(path("file"), abi, false);
    ASSERT_TRUE(writer->add(page(1)));
  }
  EXPECT_EQ(bytes("file"), "before");
  EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path), {}), 1);
  EXPECT_FALSE(Writer::create("/nowhere/file", abi, false));
}

// For machines whose pages are in files: who looks asks for the page before; elsewhere the host tells of the touch.
struct Looker {
  explicit Looker(const std::shared_ptr<Pager>& pager, bool files) : pager(pager) {
    if (files) bank = *Pager::make_bank(pager, 0, *memory);
  }
  std::span<const std::byte> at(unsigned page) const {
    if (bank) bank->bring(bank->base() + page * kPageBytes, bank->base() + (page + 1) * kPageBytes);
    return pager->pages(0).subspan(page * kPageBytes, kPageBytes);
  }
  std::unique_ptr<mm::Memory> memory = std::move(*mm::Memory::create({.data_bytes = 2 << 20, .table_bytes = 2 << 20}));
  std::shared_ptr<Pager> pager;
  std::shared_ptr<mm::Bank> bank;
};

// Threads touch all pages at once, in their own orders; each finds what was written, lazily and eagerly.
TEST_F(SnapshotFile, PagesAreThereWhenTheyAreTouched) {
  constexpr unsigned kPages = 1000;
  for (const auto& [compress, files] : {std::pair{false, false}, {true, false}, {false, true}, {true, true}}) {
    const auto file = *File::open(write("file", kPages, compress));
    for (const auto how : {Pager::How::Lazily, Pager::How::Checked, Pager::How::Copied}) {
      auto pager = Pager::create(file, [](const Failure& f) { ADD_FAILURE() << f.message; }, how, files);
      ASSERT_TRUE(pager) << pager.error().message;
      const Looker looker(*pager, files);
      std::vector<std::jthread> threads;
      std::atomic<unsigned> wrong{0};
      for (unsigned t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
          for (unsigned i = 0; i < kPages; ++i) {
            const unsigned n = (i * (2 * t + 1) + t * 250) % kPages;
            const Page expected = page(n);
            if (std::memcmp(looker.at(n).data(), expected.data(), kPageBytes) != 0) ++wrong;
          }
        });
      }
      threads.clear();
      EXPECT_EQ(wrong, 0u);
      if (how == Pager::How::Lazily && (*pager)->not_lazy().empty()) {
        EXPECT_EQ((*pager)->counts().blocks, (kPages + kBlockPages - 1) / kBlockPages);
      }
    }
  }
}

TEST_F(SnapshotFile, WhatWasTouchedIsFetchedAhead) {
  const auto file = *File::open(write("file", 640, false));
  const auto touch = [](const Looker& l, unsigned n) {
    return std::to_integer<int>(*static_cast<const volatile std::byte*>(&l.at(n)[0]));
  };
  for (const bool files : {true, false}) {
    const auto pager = [&] {
      return *Pager::create(file, [](const Failure& f) { ADD_FAILURE() << f.message; }, Pager::How::Lazily, files);
    };
    {
      auto first = pager();
      if (!first->not_lazy().empty()) GTEST_SKIP() << first->not_lazy();
      const Looker looker(first, files);
      touch(looker, 300), touch(looker, 100);
      EXPECT_EQ(first->counts().faults, 2u);
      first->keep_working_set();
    }
    auto second = pager();
    second->fetch_ahead();
    while (second->counts().ahead < 2) std::this_thread::yield();
    EXPECT_EQ(second->counts().faults, 0u);
    const Looker looker(second, files);
    touch(looker, 300), touch(looker, 100);
    EXPECT_EQ(second->counts().faults, 0u);
    put("file.ws", "rubbish");
    pager()->fetch_ahead();
    std::filesystem::remove(path("file.ws"));
  }
}

TEST_F(SnapshotFile, NobodySeesADamagedPage) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  write("file", 640, false);
  std::string bad = bytes("file");
  bad[sizeof(Header) + 300 * kPageBytes + 5] ^= 4;
  put("file", bad);
  const auto file = *File::open(path("file"));
  for (const bool files : {false, true}) {
    EXPECT_FALSE(Pager::create(file, {}, Pager::How::Checked, files));
    EXPECT_FALSE(Pager::create(file, {}, Pager::How::Copied, files));
  }
  const auto look = [&](bool files) {
    auto pager = *Pager::create(
        file,
        [](const Failure& f) {
          std::fputs(f.message.c_str(), stderr);
          _exit(42);
        },
        Pager::How::Lazily, files);
    const Looker looker(pager, files);
    for (unsigned i = 0; i < 640; ++i) static_cast<void>(*static_cast<const volatile std::byte*>(&looker.at(i)[0]));
    _exit(0);
  };
  EXPECT_EXIT(look(false), ::testing::ExitedWithCode(42), "checksum");
  EXPECT_EXIT(look(true), ::testing::ExitedWithCode(42), "checksum");
}

// --- values that nobody saved ---

// Replaces one value somewhere in it by another.
void distort(nlohmann::json& value, std::mt19937_64& random) {
  if (value.is_structured() && !value.empty()) {
    auto at = value.begin();
    std::advance(at, static_cast<long>(random() % value.size()));
    return distort(*at, random);
  }
  const std::uint64_t words[] = {0,          1,          2,          63,    4096,        1ull << 46,
                                 1ull << 47, 1ull << 62, 1ull << 63, ~0ull, ~0ull << 12, random()};
  if (value.is_number() && random() % 4 == 0) value = value.get<std::uint64_t>() + (random() % 2 ? 1 : ~4095ull);
  else if (value.is_number()) value = words[random() % std::size(words)];
  else if (value.is_boolean()) value = !value.get<bool>();
  else if (value.is_string() && random() % 2) value = std::string(random() % 5000, 'f');
  else if (value.is_string()) value = "/../../etc/passwd";
  else value = nlohmann::json::array({7});
}

// A guest program that was saved for real, in files whose every checksum is right.
class SavedProgram : public SnapshotFile {
 protected:
  // At the hook of that name. Skips the test if there is no such guest.
  void save(MachineChoice::Kind on, const std::string& guest, const std::string& hook) {
    const char* guests = std::getenv("GUESTS");
    const std::string program = std::string(guests ? guests : "guests") + "/" + guest;
    if (::access(program.c_str(), X_OK) != 0) GTEST_SKIP() << "no guest " << program;
    machine = on;
    auto shell = Shell::create(64 << 20, {}, {machine});
    ASSERT_TRUE(shell) << shell.error().message;
    RunOptions options;
    options.program = program, options.arguments = {"hook"}, options.standard = standard;
    options.saving = std::make_shared<Saving>(
        SaveOptions{.path = path("file"), .at_read = false, .hook = hook, .shares = {}});
    const auto report = run(**shell, options);
    ASSERT_TRUE(report && options.saving->outcome() && *options.saving->outcome());
    file = *File::open(path("file"));
    state = nlohmann::json::parse(*snapshot::to_text(file->state()));
  }
  // What becomes of it with another state and other runs. Nothing: it is refused.
  std::optional<Report> go_on(const nlohmann::json& with, std::span<const snapshot::Run> runs,
                              std::chrono::milliseconds timeout) {
    auto writer = *Writer::create(path("tried"), file->abi(), false);
    for (std::uint64_t b = 0; b < file->blocks().size(); ++b)
      for (auto all = file->stored(b); !all.empty(); all = all.subspan(kPageBytes))
        EXPECT_TRUE(writer->add(all.first(kPageBytes)));
    EXPECT_TRUE(writer->finish(with.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace), runs, {}));
    auto tried = File::open(path("tried"));
    if (!tried) return std::nullopt;
    auto again = *Shell::create(64 << 20, {}, {machine});
    auto files = *Files::create({});
    auto pager = *Pager::create(
        *tried, [](const Failure& f) { ADD_FAILURE() << f.message; }, Pager::How::Lazily,
        again->machine().needs().files);
    if (!restore_memory(*tried, pager, *again, files)) return std::nullopt;
    RunOptions next;
    next.timeout = timeout, next.standard = standard, next.from = *tried;
    auto report = run(*again, next);
    return report ? std::optional(std::move(*report)) : std::nullopt;
  }

  const HostFd null{::open("/dev/null", O_RDWR | O_CLOEXEC)};
  const std::array<int, 3> standard{null.get(), null.get(), null.get()};
  MachineChoice::Kind machine{};
  std::shared_ptr<const File> file;
  nlohmann::json state;
};

class HostileSnapshot : public SavedProgram {
 protected:
  // Values anywhere; `open_files`: in what is saved of open files.
  void try_values(bool open_files);
};

void HostileSnapshot::try_values(bool open_files) {
  if (IsSkipped() || HasFatalFailure()) return;
  const unsigned seed = std::random_device{}();
  const char* given = std::getenv("SEED");
  std::mt19937_64 random(given ? static_cast<unsigned>(std::atol(given)) : seed);
  SCOPED_TRACE("SEED=" + std::to_string(seed));
  unsigned refused = 0, ran = 0;
  for (unsigned rounds = test::scaled(200, 30); rounds; --rounds) {
    auto tried = state;
    std::vector<snapshot::Run> runs(file->runs().begin(), file->runs().end());
    if (open_files) {
      for (auto n = 1 + random() % 3; n; --n) distort(tried[random() % 4 ? "files" : "pipes"], random);
    } else if (random() % 4) {
      for (auto n = 1 + random() % 3; n; --n) distort(tried, random);
    } else {
      auto* words = reinterpret_cast<std::uint64_t*>(&runs[random() % runs.size()]);
      words[random() % 3] += random() % 2 ? random() % 5 * 4096 : random() * 0x1'0000'0001ull;
    }
    ++(go_on(tried, runs, std::chrono::milliseconds(200)) ? ran : refused);
  }
  EXPECT_GT(refused, 0u);
  EXPECT_GT(ran, 0u);
}

TEST_F(HostileSnapshot, LeadsNowhereInAProcess) {
  save(MachineChoice::Kind::Process, "resume", "ready");
  try_values(false);
}
TEST_F(HostileSnapshot, LeadsNowhereOnKvm) {
  NEED_KVM();
  save(MachineChoice::Kind::Kvm, "resume", "ready");
  try_values(false);
}
TEST_F(HostileSnapshot, WithOpenFilesLeadsNowhereInAProcess) {
  save(MachineChoice::Kind::Process, "open_files", "first");
  try_values(true);
}
TEST_F(HostileSnapshot, WithOpenFilesLeadsNowhereOnKvm) {
  NEED_KVM();
  save(MachineChoice::Kind::Kvm, "open_files", "first");
  try_values(true);
}

// The program wants one of its timers to have run out eleven times, and to run out next within the hour.
TEST_F(SavedProgram, FindsATimerThatRanOutOftenMeanwhileToHaveDoneSoOnce) {
  save(MachineChoice::Kind::Process, "open_files", "first");
  if (IsSkipped() || HasFatalFailure()) return;
  constexpr int kHour = 3600;
  unsigned changed = 0;
  for (auto& saved : state["files"])
    for (auto& timer : saved["timer"]) {
      if (timer["interval"][0] != kHour) continue;
      EXPECT_TRUE(timer["absolute"]);
      EXPECT_EQ(timer["expired"], 11);
      timer["expired"] = 10;
      timer["left"][0] = timer["left"][0].get<std::int64_t>() - 5 * kHour;
      ++changed;
    }
  EXPECT_EQ(changed, 1u);
  const auto report = go_on(state, file->runs(), std::chrono::minutes(2));
  ASSERT_TRUE(report);
  EXPECT_EQ(report->ending.status(), 0);
}

}  // namespace
}  // namespace ramet::vmm::snapshot
