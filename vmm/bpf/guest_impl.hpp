// Inside of a guest for eBPF functions: guest.cpp loads, calls.cpp runs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <thread>

#include "guest-mm/thread_annotations.hpp"
#include "jit/code_space.hpp"
#include "jit/entry_code.hpp"
#include "vmm/bpf/guest.hpp"

namespace ramet::vmm::bpf {

// Where things lie in the guest.
inline constexpr mm::Gva kCode = 0x10'0000'0000, kCodeBytes = 1ull << 30;  // calls reach all of it
inline constexpr mm::Gva kStacks = 0x18'0000'0000;                         // an area of VCPU_AREA for each vCPU

// A vCPU with its stack, for one call at a time.
struct Slot {
  Vcpu* vcpu = nullptr;
  std::uint32_t number = 0;
  mm::Gva stack = 0;                       // area: a page that is not mapped, the stack, the page with the number
  mm::Gva arena = 0;                       // for contexts and lists of calls
  std::uint64_t arena_bytes = 0;
  std::vector<std::byte> staging;          // the arena's contents, on their way there and back
  // Steady clock, ns. `deadline`: when the call has to end; 0: never. `over`: the last deadline for which watch_slots()
  // kicked the vCPU; this call has timed out if both are equal. Release and acquire.
  std::atomic<std::int64_t> deadline{0}, over{0};
  mm::Gva top() const { return stack + VCPU_NUMBER; }
};

struct Guest::Impl {
  explicit Impl(const Options& o) : options(o) {
    slots.reserve(MOST_VCPUS);
    free_slots.reserve(MOST_VCPUS);
  }

  const Options options;
  std::unique_ptr<Shell> shell;
  jit::InstructionSet set{};
  std::unique_ptr<jit::CodeSpace> code;
  mm::Gva entry = 0;  // of jit::entry_code()

  // What lies where in the code space, to tell where a program was stopped.
  struct Placed {
    Program program;
    std::shared_ptr<const jit::Compiled> compiled;  // null: a stub
    bool helper = false;  // of helpers.bpf.c
  };
  mutable SharedMutex lock;  // before those of code space and address space
  std::map<mm::Gva, Placed> placed RAMET_GUARDED_BY(lock);
  std::map<mm::Gva, Map> maps RAMET_GUARDED_BY(lock);  // by header
  std::map<std::uint32_t, mm::Gva> helpers RAMET_GUARDED_BY(lock);  // addresses, by number
  // Those of helpers.bpf.c that the VMM calls, by section. Never taken away.
  std::map<std::string, Program, std::less<>> host_programs RAMET_GUARDED_BY(lock);
  std::map<std::uint32_t, Helper> served RAMET_GUARDED_BY(lock);  // by the VMM; never taken away

  Mutex slots_lock;  // before the address space's
  std::condition_variable slot_freed, watched;
  std::vector<std::unique_ptr<Slot>> slots RAMET_GUARDED_BY(slots_lock);
  std::vector<Slot*> free_slots RAMET_GUARDED_BY(slots_lock);
  bool stop RAMET_GUARDED_BY(slots_lock) = false, watching RAMET_GUARDED_BY(slots_lock) = false;
  std::thread watch;  // ends calls that take too long

  mm::AddressSpace& memory() const { return shell->memory(); }
  const arch::GuestAbi& abi() const { return shell->machine().abi(); }

  // guest.cpp
  Status begin() RAMET_REQUIRES(lock);  // in a fresh shell: entry code, helpers
  Status load_helpers() RAMET_REQUIRES(lock);
  std::expected<mm::Gva, Failure> place_stub(std::string name, std::span<const std::uint8_t>) RAMET_REQUIRES(lock);
  Status load(const jit::Object&, std::string_view section, Loaded&) RAMET_REQUIRES(lock);
  std::expected<Program, Failure> load(const jit::Program&, std::span<const Map>) RAMET_REQUIRES(lock);
  std::expected<Program, Failure> place(const jit::Program&, std::shared_ptr<const jit::Compiled>, bool loops,
                                        std::span<const Map>, bool helper = false) RAMET_REQUIRES(lock);
  Status serve(std::uint32_t number, Helper) RAMET_REQUIRES(lock);  // and its stub
  std::expected<std::vector<std::byte>, int> ask(std::string_view what, const Map&, std::span<const std::byte> key,
                                                 std::span<const std::byte> value, std::uint64_t flags,
                                                 std::uint32_t vcpu) RAMET_EXCLUDES(lock, slots_lock);

  // calls.cpp
  void call(std::span<Call>) RAMET_EXCLUDES(lock, slots_lock);
  std::expected<Slot*, Failure> take_slot() RAMET_EXCLUDES(slots_lock);
  void give_slot(Slot*) RAMET_EXCLUDES(slots_lock);
  std::expected<std::unique_ptr<Slot>, Failure> make_slot(std::uint32_t number);
  mm::Result<> grow(Slot&, std::uint64_t bytes);
  void start(Slot&, std::uint32_t entry_offset);
  Outcome run(Slot&) RAMET_EXCLUDES(lock);
  std::optional<Outcome> serve(Slot&) RAMET_EXCLUDES(lock);  // a system call; nothing: the guest goes on
  Outcome fault(Slot&, int signal, mm::Gva address, std::string what) RAMET_EXCLUDES(lock);
  std::string where(mm::Gva pc) const RAMET_EXCLUDES(lock);
  void run_batch(Slot&, std::span<Call>) RAMET_EXCLUDES(lock);
  void run_one(Slot&, Call&) RAMET_EXCLUDES(lock);
  void run_list(Slot&, std::span<Call>) RAMET_EXCLUDES(lock);
  Status start_watch();
  void begin_watch(Slot&) RAMET_EXCLUDES(slots_lock);
  void end_watch(Slot&);
  void watch_slots() RAMET_EXCLUDES(slots_lock);
  // Where the vCPU was stopped; it goes on with another program.
  mm::Gva stopped(const Slot&) RAMET_EXCLUDES(lock);
  void unlock_maps(std::uint32_t vcpu) RAMET_EXCLUDES(lock);
};

}  // namespace ramet::vmm::bpf
