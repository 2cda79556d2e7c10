// A microVM for eBPF functions: loads programs, thousands if need be, and calls them from any number of host threads.
//
//   auto guest = bpf::Guest::create({});
//   auto loaded = (*guest)->load(*jit::load_object(file));
//   auto outcome = (*guest)->call(loaded->programs[0], buffer);   // r1 = buffer, r2 = its length; it comes back
//
// Programs are not verified but confined: they share the guest's memory with each other and with their maps, and reach
// nothing else. A call is one exit of the guest, however many programs a batch has; helpers are eBPF functions there
// (helpers.bpf.c), but for those that need the host, which are an exit each.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "jit/compiler.hpp"
#include "jit/program.hpp"
#include "vmm/bpf/maps.hpp"
#include "vmm/shell.hpp"

namespace ramet::vmm::bpf {

struct Options {
  std::uint64_t memory_bytes = 64ull << 20;
  Techniques techniques = {};
  MachineChoice machine = {};
  // Of a call, or a batch. Nullopt: a program that does not end is waited for.
  std::optional<std::chrono::nanoseconds> timeout;
  // Called with each line that programs print, without the newline, from any thread. Null: lines are dropped.
  std::function<void(std::string_view)> trace = {};
};

struct Program {
  std::string name, section;
  mm::Gva address = 0;
  std::uint32_t instructions = 0, code_bytes = 0;
};

struct Loaded {
  std::vector<Program> programs;
  std::vector<Map> maps;
};

// How a call ended.
struct Outcome {
  enum class Kind : std::uint8_t {
    Returned,  // r0
    Fault,     // the program did what it may not: signal, detail
    TimedOut,
    NotRun,    // of a batch that ended before
    Broken,    // the machine cannot go on, detail says why
  };
  Kind kind = Kind::NotRun;
  int signal = 0;            // Fault: what Linux would send for it
  mm::Gva address = 0;       // Fault: that was accessed
  std::uint64_t r0 = 0;
  std::string detail = {};   // Fault, TimedOut, Broken: where and what, for people
};

struct Call {
  const Program* program = nullptr;
  std::span<std::byte> context = {};  // the program's input, and what it made of it afterwards; empty: r1 is null
  Outcome outcome = {};
};

class Guest {
 public:
  // Errors: as Shell::create().
  static std::expected<std::unique_ptr<Guest>, Failure> create(const Options&);
  // No call is under way.
  ~Guest();
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;

  // Adds a function of the host that programs call by that number, an exit each. The arguments are the program's to
  // choose: addresses among them are used through `memory` only. The helper is called by any thread that calls
  // programs, and throws nothing. Before load() of the first program that names it. Errors: the number is taken, or
  // larger than programs can have.
  using Arguments = std::array<std::uint64_t, 5>;
  using Helper = std::function<std::uint64_t(mm::AddressSpace& memory, const Arguments&)>;
  Status add_helper(std::uint32_t number, Helper);

  // Loads all programs of an object, or those of one section, and its maps. From any thread, while calls are under way.
  // Errors, by status 126: what is wrong with a program (its instruction's number, and why) or a map; 125: no memory.
  // Nothing is loaded then.
  std::expected<Loaded, Failure> load(const jit::Object&, std::string_view section = {});
  std::expected<Program, Failure> load(const jit::Program&);
  // Programs must be in no call. Their addresses may be given to others from then on.
  void unload(const Program&);
  void unload(const Loaded&);

  // From any thread. Calls beyond MOST_VCPUS at a time wait for one that ends.
  Outcome call(const Program&, std::span<std::byte> context = {});
  // One after the other without leaving the guest in between; one that fails does not keep the others from running.
  void call(std::span<Call>);

  // For hash maps and arrays. Keys and values have their map's sizes. Errors: those of the helpers, as errno values;
  // EINVAL: a wrong size, or a map that has none; EIO: it did not end in time, or found the map overwritten.
  std::expected<std::vector<std::byte>, int> lookup(const Map&, std::span<const std::byte> key, std::uint32_t vcpu = 0);
  std::expected<void, int> update(const Map&, std::span<const std::byte> key, std::span<const std::byte> value,
                                  std::uint64_t flags = 0, std::uint32_t vcpu = 0);
  std::expected<void, int> erase(const Map&, std::span<const std::byte> key);
  // The key after that one in a hash map; of an empty key, the first. Error ENOENT: there is none.
  std::expected<std::vector<std::byte>, int> next(const Map&, std::span<const std::byte> key);
  // See consume_ring().
  std::expected<std::vector<std::vector<std::byte>>, Failure> consume(const Map&);

  // Another guest with the same programs and maps and what they hold now, copied when either side writes it. Calls
  // under way are not in it. Errors: as Shell::fork().
  std::expected<std::unique_ptr<Guest>, Failure> fork();

  // CodeSpace::compact().
  std::uint64_t compact();

  mm::AddressSpace& memory();
  Shell& shell();
  jit::InstructionSet instruction_set() const;
  // Where programs are; addresses of blocks of 2 MiB.
  std::vector<mm::Gva> code_blocks() const;
  struct CodeUsage {
    std::uint64_t programs = 0, bytes = 0, blocks = 0;
  };
  CodeUsage code_usage() const;

 private:
  struct Impl;
  explicit Guest(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ramet::vmm::bpf
