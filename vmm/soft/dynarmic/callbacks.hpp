// What the recompiler calls while it runs guest code: memory, and what it does not translate itself.
#pragma once

#include <dynarmic/interface/A64/a64.h>
#include <dynarmic/interface/exclusive_monitor.h>

#include <array>
#include <bit>
#include <optional>
#include <vector>

#include "vmm/soft/dynarmic/code_pages.hpp"
#include "vmm/soft/dynarmic/page_map.hpp"
#include "vmm/soft/engine.hpp"

namespace ramet::vmm::soft {

using Vector = Dynarmic::A64::Vector;

class Callbacks final : public Dynarmic::A64::UserCallbacks {
 public:
  explicit Callbacks(const GuardedWords& guarded) : words(guarded) {}

  const GuardedWords& words;

  // Set before the first run.
  Dynarmic::A64::Jit* jit = nullptr;
  Memory* memory = nullptr;
  PageMap pages;
  CodePages code;
  std::optional<Stop> stop;             // why the run is to end: the first reason that came up

  // --- memory ---
  std::uint8_t MemoryRead8(std::uint64_t at) override { return read<std::uint8_t>(at); }
  std::uint16_t MemoryRead16(std::uint64_t at) override { return read<std::uint16_t>(at); }
  std::uint32_t MemoryRead32(std::uint64_t at) override { return read<std::uint32_t>(at); }
  std::uint64_t MemoryRead64(std::uint64_t at) override { return read<std::uint64_t>(at); }
  Vector MemoryRead128(std::uint64_t at) override;
  void MemoryWrite8(std::uint64_t at, std::uint8_t value) override { write(at, 0, value); }
  void MemoryWrite16(std::uint64_t at, std::uint16_t value) override { write(at, 1, value); }
  void MemoryWrite32(std::uint64_t at, std::uint32_t value) override { write(at, 2, value); }
  void MemoryWrite64(std::uint64_t at, std::uint64_t value) override { write(at, 3, value); }
  void MemoryWrite128(std::uint64_t at, Vector value) override;
  bool MemoryWriteExclusive8(std::uint64_t at, std::uint8_t value, std::uint8_t expected) override {
    return exchange(at, 0, expected, value) == expected && !stop;
  }
  bool MemoryWriteExclusive16(std::uint64_t at, std::uint16_t value, std::uint16_t expected) override {
    return exchange(at, 1, expected, value) == expected && !stop;
  }
  bool MemoryWriteExclusive32(std::uint64_t at, std::uint32_t value, std::uint32_t expected) override {
    return exchange(at, 2, expected, value) == expected && !stop;
  }
  bool MemoryWriteExclusive64(std::uint64_t at, std::uint64_t value, std::uint64_t expected) override {
    return exchange(at, 3, expected, value) == expected && !stop;
  }
  bool MemoryWriteExclusive128(std::uint64_t at, Vector value, Vector expected) override {
    return exchange_pair(at, expected, value);
  }
  std::optional<std::uint32_t> MemoryReadCode(std::uint64_t at) override;

  // Compares and exchanges an aligned word of 1 << size bytes; returns what was there. Where it cannot, it sets `stop`,
  // and the word has not changed.
  std::uint64_t exchange(std::uint64_t at, unsigned size, std::uint64_t expected, std::uint64_t desired);
  // The same of 16 bytes; `expected` becomes what was there. True: they were exchanged.
  bool exchange_pair(std::uint64_t at, Vector& expected, const Vector& desired);
  std::uint64_t read(std::uint64_t at, unsigned size);
  void write(std::uint64_t at, unsigned size, std::uint64_t value);

  // --- the rest ---
  void InterpreterFallback(std::uint64_t pc, std::size_t count) override;
  void CallSVC(std::uint32_t) override { end({.kind = Stop::Kind::Syscall}); }
  void ExceptionRaised(std::uint64_t pc, Dynarmic::A64::Exception) override;
  void InstructionCacheOperationRaised(Dynarmic::A64::InstructionCacheOperation, std::uint64_t at) override;
  void AddTicks(std::uint64_t) override {}
  std::uint64_t GetTicksRemaining() override { return ~std::uint64_t{0} >> 1; }
  std::uint64_t GetCNTPCT() override;

  // The run ends before the next instruction; after an access that failed, as if this one had not been begun.
  void end(const Stop&, Dynarmic::HaltReason = Dynarmic::HaltReason::UserDefined1);

 private:
  // After a fork every page is read this way: it is short, so that a processor has several of them under way at a time.
  // Relaxed: the translated code around it has the barriers that guest code asks for.
  template <class T>
  T read(std::uint64_t at) {
    if (const std::byte* const host = pages.find_lasting(at, sizeof(T)))
      return __atomic_load_n(reinterpret_cast<const T*>(host), __ATOMIC_RELAXED);
    return static_cast<T>(read(at, std::bit_width(sizeof(T)) - 1));
  }
  // Host memory of an address, to the end of its page; where there is none, null, and the run ends with a fault.
  PageMap::Place find(std::uint64_t at, Memory::Access access) {
    if (at < kAddressEnd)
      if (const PageMap::Place kept = pages.find(at, access == Memory::Access::Write); kept.host) return kept;
    return find_slowly(at, access);
  }
  PageMap::Place find_slowly(std::uint64_t at, Memory::Access);
  void vanished(std::uint64_t at) {
    end({.kind = Stop::Kind::Vanished, .address = at}, Dynarmic::HaltReason::MemoryAbort);
  }
};

}  // namespace ramet::vmm::soft
