// What a guest's process says of a trap, which it may have made up: whatever numbers it says, the VMM reads and writes
// nothing but that process's signal stack.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <random>
#include <span>

#include "arch/process_frame.hpp"
#include "arch/process_layout.h"
#include "arch/x86_64/signal_frame.hpp"

namespace ramet::vmm::process {
namespace {

namespace x86 = arch::x86_64;

// Of the kernel's struct ucontext, siginfo, struct _fpstate and struct _fpx_sw_bytes.
constexpr std::uint64_t kContextBytes = 304, kRegisters = 40, kInfoBytes = 128, kLegacyBytes = 512, kXstateSize = 464 + 16;
constexpr std::uint64_t kBase = RAMET_SAID + 7 * std::uint64_t{RAMET_SAID_SIZE};

// A said area between pages that nobody may touch.
class Said {
 public:
  Said() {
    all_ = static_cast<std::byte*>(mmap(nullptr, RAMET_SAID_SIZE + 0x2000, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (all_ == MAP_FAILED || mprotect(all_ + 0x1000, RAMET_SAID_SIZE, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
  }
  ~Said() { munmap(all_, RAMET_SAID_SIZE + 0x2000); }
  Said(const Said&) = delete;
  Said& operator=(const Said&) = delete;
  std::span<std::byte> bytes() const { return {all_ + 0x1000, RAMET_SAID_SIZE}; }
  template <class T>
  void put(std::uint64_t at, T value) const { std::memcpy(bytes().data() + at, &value, sizeof value); }

 private:
  std::byte* all_;
};

struct Draws {
  std::mt19937_64 random;
  std::uint64_t below(std::uint64_t n) { return random() % n; }
  // Where something of so many bytes may begin or just may not, and anywhere.
  std::uint64_t place(std::uint64_t bytes, std::uint64_t alignment) {
    switch (below(8)) {
      case 0: return random() >> below(64);
      case 1: return kBase + RAMET_SIGNAL_STACK + below(5) - 2;
      case 2: return kBase + RAMET_SAID_SIZE - bytes + (below(5) - 2) * (below(2) ? 1 : alignment);
      case 3: return kBase + below(2 * RAMET_SAID_SIZE) - RAMET_SAID_SIZE / 2;
      default: return kBase + below(RAMET_SAID_SIZE) / alignment * alignment;
    }
  }
  std::uint32_t size(std::uint64_t fp) {
    const std::uint64_t room = kBase + RAMET_SAID_SIZE - fp;
    switch (below(4)) {
      case 0: return static_cast<std::uint32_t>(room + below(3) - 1);
      case 1: return static_cast<std::uint32_t>(kLegacyBytes + below(3) - 1);
      case 2: return static_cast<std::uint32_t>(random() >> below(64));
      default: return static_cast<std::uint32_t>(below(RAMET_SAID_SIZE));
    }
  }
};

bool lies_in(std::uint64_t at, std::uint64_t bytes, std::uint64_t alignment) {
  return at % alignment == 0 && at >= kBase + RAMET_SIGNAL_STACK && at <= kBase + RAMET_SAID_SIZE - bytes;
}

TEST(ProcessFrame, OfWhatIsSaidOnlyWhatLiesOnTheSignalStackIsUsed) {
  const std::uint64_t seed = std::random_device()();
  Draws n{std::mt19937_64(seed)};
  const Said said;
  unsigned found = 0, refused = 0;
  for (unsigned i = 0; i < 300'000; ++i) {
    const std::uint64_t context = n.place(kContextBytes, 8), info = n.place(kInfoBytes, 8);
    const std::uint64_t fp = n.place(kLegacyBytes, 64);
    std::uint32_t size = n.size(fp);
    said.put(SAID_FRAME, context);
    said.put(SAID_INFO, info);
    const bool fp_lies = lies_in(fp, kLegacyBytes, 64);
    if (fp_lies) said.put(fp - kBase + kXstateSize, size);
    const std::uint64_t pointer = context + kRegisters + offsetof(x86::SignalContext, fpstate);
    if (lies_in(pointer, sizeof fp, 1)) said.put(pointer - kBase, fp);
    // Pieces may lie over each other: what counts is what can be read in the end.
    if (fp_lies) std::memcpy(&size, said.bytes().data() + (fp - kBase) + kXstateSize, sizeof size);
    const bool truth = lies_in(context, kContextBytes, 8) && lies_in(info, kInfoBytes, 8) && fp_lies && size >= kLegacyBytes &&
                       fp + size <= kBase + RAMET_SAID_SIZE;
    const auto frame = arch::find_host_frame(said.bytes(), kBase);
    ASSERT_EQ(frame.has_value(), truth) << std::hex << "seed " << seed << ", context " << context << ", info " << info << ", fp " << fp << ", size " << size;
    ++(truth ? found : refused);
    if (!frame) continue;
    // Beyond the area there is nothing that can be touched, and in its first page nothing that may change.
    std::array<std::byte, RAMET_SIGNAL_STACK> before;
    std::ranges::copy(said.bytes().first(before.size()), before.begin());
    (void)arch::read_host_trap(said.bytes(), *frame, SIGSTKFLT);
    const auto regs = arch::read_host_registers(said.bytes(), *frame);
    arch::FpState state;
    arch::read_host_fp(said.bytes(), *frame, state);
    arch::write_host_fp(said.bytes(), *frame, state);
    arch::write_host_registers(said.bytes(), *frame, regs, kBase);
    ASSERT_TRUE(std::ranges::equal(said.bytes().first(before.size()), before)) << "seed " << seed;
  }
  EXPECT_GT(found, 1'000u);
  EXPECT_GT(refused, 100'000u);
}

}  // namespace
}  // namespace ramet::vmm::process
