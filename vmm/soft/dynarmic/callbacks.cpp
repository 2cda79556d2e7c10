#include "vmm/soft/dynarmic/callbacks.hpp"

#include <utility>

#include "vmm/host_time.hpp"
#include "vmm/soft/dynarmic/extra.hpp"

namespace ramet::vmm::soft {
namespace {

using Dynarmic::HaltReason;
using Access = Memory::Access;

// How far around a page a look keeps translations: the look costs, not the pages.
constexpr std::uint64_t kReach = 256 << 10;

// The processor does not look at an address's top byte: bit 55 stands for it (TBI).
std::uint64_t untagged(std::uint64_t at) { return static_cast<std::uint64_t>(static_cast<std::int64_t>(at << 8) >> 8); }
std::uint64_t page_of(std::uint64_t at) { return mm::align_down(at, mm::kPageSize); }
bool in_one_page(std::uint64_t at, std::uint64_t bytes) { return (at & (mm::kPageSize - 1)) + bytes <= mm::kPageSize; }

// One access, to memory that does not go away and that other threads' guest code may write. Relaxed: the translated
// code around it has the barriers that guest code asks for.
std::uint64_t load(const std::byte* host, unsigned size) {
  const auto value = [host]<class T>(T) {
    return std::uint64_t{__atomic_load_n(reinterpret_cast<const T*>(host), __ATOMIC_RELAXED)};
  };
  switch (size) {
    case 0: return value(std::uint8_t{});
    case 1: return value(std::uint16_t{});
    case 2: return value(std::uint32_t{});
    default: return value(std::uint64_t{});
  }
}

}  // namespace

void Callbacks::end(const Stop& why, HaltReason reason) {
  if (!stop) stop = why;
  jit->HaltExecution(reason);
}

PageMap::Place Callbacks::find_slowly(std::uint64_t at, Access access) {
  const auto run = at < kAddressEnd ? memory->look(page_of(at), access, kReach) : std::nullopt;
  if (!run) {
    end({.kind = Stop::Kind::Fault, .address = at, .access = access}, HaltReason::MemoryAbort);
    return {};
  }
  pages.keep(*run);
  return {run->host + (at - run->start), run->lasting};
}

std::uint64_t Callbacks::read(std::uint64_t at, unsigned size) {
  at = untagged(at);
  const std::uint64_t bytes = 1u << size;
  if (!in_one_page(at, bytes)) {
    std::uint64_t value = 0;
    for (std::uint64_t i = 0; i < bytes && !stop; ++i) value |= read(at + i, 0) << (8 * i);
    return value;
  }
  const auto [host, lasting] = find(at, Access::Read);
  if (!host) return 0;
  if (lasting) return load(host, size);
  const auto r = words.load[size](host);
  if (r.fault) vanished(at);
  return r.value;
}

void Callbacks::write(std::uint64_t at, unsigned size, std::uint64_t value) {
  at = untagged(at);
  const std::uint64_t bytes = 1u << size;
  if (!in_one_page(at, bytes)) {
    // Both pages can be written before either is.
    if (!find(at, Access::Write).host || !find(at + bytes - 1, Access::Write).host) return;
    for (std::uint64_t i = 0; i < bytes && !stop; ++i) write(at + i, 0, value >> (8 * i) & 0xff);
    return;
  }
  std::byte* const host = find(at, Access::Write).host;
  if (host && words.store[size](host, value).fault) vanished(at);
}

Vector Callbacks::MemoryRead128(std::uint64_t at) {
  at = untagged(at);
  if (!in_one_page(at, sizeof(Vector))) {
    const std::uint64_t low = read(at, 3);
    return stop ? Vector{} : Vector{low, read(at + 8, 3)};
  }
  Vector value{};
  const std::byte* const host = find(at, Access::Read).host;
  if (host && words.load_pair(host, value.data()).fault) vanished(at);
  return value;
}

void Callbacks::MemoryWrite128(std::uint64_t at, Vector value) {
  at = untagged(at);
  if (!in_one_page(at, sizeof(Vector))) {
    if (!find(at, Access::Write).host || !find(at + sizeof(Vector) - 1, Access::Write).host) return;
    write(at, 3, value[0]);
    if (!stop) write(at + 8, 3, value[1]);
    return;
  }
  std::byte* const host = find(at, Access::Write).host;
  if (host && words.store_pair(host, value.data()).fault) vanished(at);
}

std::uint64_t Callbacks::exchange(std::uint64_t at, unsigned size, std::uint64_t expected, std::uint64_t desired) {
  at = untagged(at);
  if (at & ((1u << size) - 1)) {
    end({.kind = Stop::Kind::Misaligned, .address = at}, HaltReason::MemoryAbort);
    return 0;
  }
  std::byte* const host = find(at, Access::Write).host;
  if (!host) return 0;
  const auto r = words.exchange[size](host, expected, desired);
  if (r.fault) vanished(at);
  return size == 3 ? r.value : r.value & ((1ull << (8u << size)) - 1);
}

bool Callbacks::exchange_pair(std::uint64_t at, Vector& expected, const Vector& desired) {
  at = untagged(at);
  if (at & (sizeof(Vector) - 1)) {
    end({.kind = Stop::Kind::Misaligned, .address = at}, HaltReason::MemoryAbort);
    return false;
  }
  std::byte* const host = find(at, Access::Write).host;
  if (!host) return false;
  const auto r = words.exchange_pair(host, expected.data(), desired.data());
  if (r.fault) vanished(at);
  return !r.fault && r.value;
}

std::optional<std::uint32_t> Callbacks::MemoryReadCode(std::uint64_t at) {
  const std::uint64_t page = page_of(at);
  if (at % 4 || at >= kAddressEnd) return std::nullopt;
  const auto run = memory->look(page, Access::Execute, 0);
  if (!run) return std::nullopt;
  if (!code.has(page)) code.add(page, CodePages::Page::of(*run, page, words));
  const auto r = words.load[2](run->host + (at - run->start));
  if (r.fault) return std::nullopt;
  return static_cast<std::uint32_t>(r.value);
}

void Callbacks::InterpreterFallback(std::uint64_t pc, std::size_t) {
  const auto word = MemoryReadCode(pc);
  if (word && carry_out(*this, *word)) {
    if (!stop) jit->SetPC(pc + 4);
    return;
  }
  end({.kind = Stop::Kind::Undefined, .address = pc});
}

void Callbacks::ExceptionRaised(std::uint64_t pc, Dynarmic::A64::Exception exception) {
  using Dynarmic::A64::Exception;
  switch (exception) {
    case Exception::WaitForInterrupt:
    case Exception::WaitForEvent:
    case Exception::SendEvent:
    case Exception::SendEventLocal:
    case Exception::Yield: return;  // hints
    case Exception::Breakpoint: return end({.kind = Stop::Kind::Breakpoint, .address = pc});
    case Exception::NoExecuteFault: return end({.kind = Stop::Kind::Fault, .address = pc, .access = Access::Execute});
    case Exception::UnallocatedEncoding:
    case Exception::ReservedValue:
    case Exception::UnpredictableInstruction: break;
  }
  end({.kind = Stop::Kind::Undefined, .address = pc});
}

// IC IVAU is the only such operation that user code may use.
void Callbacks::InstructionCacheOperationRaised(Dynarmic::A64::InstructionCacheOperation, std::uint64_t at) {
  end({.kind = Stop::Kind::Maintained, .address = untagged(at)});
}

std::uint64_t Callbacks::GetCNTPCT() { return static_cast<std::uint64_t>(host_time(CLOCK_MONOTONIC)->count()); }

}  // namespace ramet::vmm::soft
