// Calling: vCPUs, the way into the guest and out of it, and what ended a program.
#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <system_error>

#include "vmm/bpf/guest_impl.hpp"
#include "vmm/signal_name.hpp"
#include "vmm/signals_blocked.hpp"

namespace ramet::vmm::bpf {

using Clock = std::chrono::steady_clock;
using Kind = Outcome::Kind;

namespace {

constexpr std::uint64_t kAlign = 16;  // of contexts, bytes

std::int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count();
}

Outcome broken(std::string why) { return {.kind = Kind::Broken, .detail = std::move(why)}; }

}  // namespace

// --- vCPUs ---

std::expected<std::unique_ptr<Slot>, Failure> Guest::Impl::make_slot(std::uint32_t number) {
  auto slot = std::make_unique<Slot>();
  slot->number = number;
  slot->stack = kStacks + std::uint64_t{number} * VCPU_AREA;
  const mm::MapRequest request{.address = slot->stack + mm::kPageSize,
                               .length = VCPU_AREA - mm::kPageSize,
                               .prot = mm::Prot::Read | mm::Prot::Write,
                               .fixed = true,
                               .name = "[bpf stack]"};
  auto mapped = memory().map(request);
  const auto done = mapped ? memory().write(slot->top(), std::as_bytes(std::span(&slot->number, 1)))
                           : mm::fail(mapped.error());
  if (!done) return failure(fmt::format("no stack for another call: {}", mm::describe(done.error())));
  auto vcpu = shell->machine().acquire_vcpu();
  if (!vcpu) return std::unexpected(vcpu.error());
  slot->vcpu = *vcpu;
  return slot;
}

// A free slot, else a new one, else the first that is freed.
std::expected<Slot*, Failure> Guest::Impl::take_slot() {
  UniqueLock guard(slots_lock);
  while (free_slots.empty()) {
    if (slots.size() < MOST_VCPUS) {
      auto made = make_slot(static_cast<std::uint32_t>(slots.size()));
      if (made) return slots.emplace_back(std::move(*made)).get();
      if (slots.empty()) return std::unexpected(made.error());
    }
    slot_freed.wait(guard.standard());
  }
  Slot* slot = free_slots.back();
  free_slots.pop_back();
  return slot;
}

void Guest::Impl::give_slot(Slot* slot) {
  {
    LockGuard guard(slots_lock);
    free_slots.push_back(slot);
  }
  slot_freed.notify_one();
}

mm::Result<> Guest::Impl::grow(Slot& slot, std::uint64_t bytes) {
  if (bytes <= slot.arena_bytes) return {};
  constexpr std::uint64_t kLeast = 64 << 10;
  bytes = mm::align_up(std::max(bytes, kLeast), mm::kPageSize);
  const auto at = memory().map({.length = bytes, .prot = mm::Prot::Read | mm::Prot::Write, .name = "[bpf input]"});
  if (!at) return mm::fail(at.error());
  if (slot.arena_bytes)
    if (auto gone = memory().unmap(slot.arena, slot.arena_bytes); !gone) return gone;
  slot.arena = *at, slot.arena_bytes = bytes;
  return {};
}

// --- what takes too long ---

void Guest::Impl::watch_slots() {
  const auto timeout = *options.timeout;
  const auto period = std::clamp<std::chrono::nanoseconds>(timeout / 8, std::chrono::milliseconds(1),
                                                           std::chrono::milliseconds(50));
  UniqueLock guard(slots_lock);
  while (!stop) {
    if (slots.size() == free_slots.size()) {  // nothing to watch
      watching = false;
      watched.wait(guard.standard(), [&]() RAMET_REQUIRES(slots_lock) { return stop || watching; });
    }
    watched.wait_for(guard.standard(), period, [&]() RAMET_REQUIRES(slots_lock) { return stop; });
    for (const auto& slot : slots) {
      const std::int64_t deadline = slot->deadline.load(std::memory_order_acquire);
      if (deadline == 0 || now() < deadline) continue;
      slot->over.store(deadline, std::memory_order_release);
      slot->vcpu->kick();
    }
  }
}

Status Guest::Impl::start_watch() try {
  if (!options.timeout) return {};
  SignalsBlocked blocked;
  watch = std::thread([this] { watch_slots(); });
  return {};
} catch (const std::system_error& e) {
  return failure(fmt::format("the host cannot start a thread to watch the time: {}", e.what()));
}

void Guest::Impl::begin_watch(Slot& slot) {
  if (!options.timeout) return;
  slot.deadline.store(now() + options.timeout->count(), std::memory_order_release);
  LockGuard guard(slots_lock);
  if (watching) return;
  watching = true;
  watched.notify_one();
}

void Guest::Impl::end_watch(Slot& slot) { slot.deadline.store(0, std::memory_order_release); }

// --- running ---

void Guest::Impl::start(Slot& slot, std::uint32_t entry_offset) {
  UserRegs& r = slot.vcpu->regs();
  r = abi().initial_registers();
  r[abi().reg.sp] = slot.top();
  r[abi().reg.pc] = entry + entry_offset;
}

std::optional<Outcome> Guest::Impl::serve(Slot& slot) {
  UserRegs& r = slot.vcpu->regs();
  const std::uint64_t number = r[abi().reg.number];
  const auto a = abi().arguments(r);
  if (number == jit::kDone) return Outcome{.kind = Kind::Returned, .r0 = a[0]};
  // The fallback of the host's vDSO, if user code cannot read the clock source.
  if (number < arch::kMostCalls && abi().call_of(static_cast<std::uint32_t>(number)) == arch::Call::clock_gettime) {
    timespec t{};
    int error = ::clock_gettime(static_cast<clockid_t>(a[0]), &t) == 0 ? 0 : errno;
    if (!error && !memory().write(a[1], std::as_bytes(std::span(&t, 1)))) error = EFAULT;
    r[abi().reg.result] = static_cast<std::uint64_t>(-std::int64_t{error});
    return std::nullopt;
  }
  const Helper* helper = nullptr;
  {
    SharedLock guard(lock);
    if (const auto found = served.find(static_cast<std::uint32_t>(number - jit::kFirstHelper));
        number >= jit::kFirstHelper && number - jit::kFirstHelper < jit::kMostHelpers && found != served.end())
      helper = &found->second;  // never removed
  }
  if (!helper) return fault(slot, SIGSYS, 0, fmt::format("system call {}, of which there are none", number));
  r[abi().reg.result] = (*helper)(memory(), {a[0], a[1], a[2], a[3], a[4]});
  return std::nullopt;
}

std::string Guest::Impl::where(mm::Gva pc) const {
  SharedLock guard(lock);
  auto at = placed.upper_bound(pc);
  if (at == placed.begin()) return fmt::format("at {:#x}, where no program is", pc);
  --at;
  const Placed& p = at->second;
  if (pc - at->first >= p.program.code_bytes) return fmt::format("at {:#x}, where no program is", pc);
  if (!p.compiled) return "in " + p.program.name;
  return fmt::format("in {} at instruction {}", p.program.name,
                     p.compiled->instruction_at(static_cast<std::uint32_t>(pc - at->first)));
}

Outcome Guest::Impl::fault(Slot& slot, int signal, mm::Gva address, std::string what) {
  const mm::Gva pc = stopped(slot);
  return {.kind = Kind::Fault,
          .signal = signal,
          .address = address,
          .detail = fmt::format("{} {}: {}", signal_name(signal), where(pc), what)};
}

// Only helpers hold locks of maps.
mm::Gva Guest::Impl::stopped(const Slot& slot) {
  const mm::Gva pc = slot.vcpu->regs()[abi().reg.pc];
  const bool in_helper = [&] {
    SharedLock guard(lock);
    const auto at = placed.upper_bound(pc);
    return at != placed.begin() && std::prev(at)->second.helper;
  }();
  if (in_helper) unlock_maps(slot.number);
  return pc;
}

void Guest::Impl::unlock_maps(std::uint32_t vcpu) {
  SharedLock guard(lock);
  for (const auto& [header, map] : maps) unlock_map(memory(), map, vcpu);
}

Outcome Guest::Impl::run(Slot& slot) {
  const auto access_name = [](mm::Access a) {
    return a == mm::Access::Write ? "a store to" : a == mm::Access::Execute ? "a jump to" : "a load from";
  };
  for (;;) {
    const Exit e = slot.vcpu->run();
    switch (e.kind) {
      case Exit::Kind::Syscall:
        if (auto ended = serve(slot)) return *ended;
        break;
      case Exit::Kind::PageFault: {
        const auto done = memory().fault(e.address, e.access);
        if (done) {
          if (done->kind == mm::FaultOutcome::Kind::Spurious) slot.vcpu->spurious_fault();
          break;
        }
        if (done.error() == mm::Error::NoMemory)
          return fault(slot, SIGKILL, e.address, "the guest's memory is used up");
        const bool overflow = e.address >= slot.stack && e.address < slot.stack + mm::kPageSize;
        return fault(slot, SIGSEGV, e.address,
                     overflow ? "its calls need more stack than there is"
                              : fmt::format("{} address {:#x}, {}", access_name(e.access), e.address,
                                            mm::describe(done.error())));
      }
      case Exit::Kind::Exception:
        return fault(slot, e.signal, e.address,
                     e.address ? fmt::format("address {:#x}", e.address) : "what the processor does not do there");
      case Exit::Kind::HostFault: return fault(slot, SIGBUS, 0, e.detail);
      case Exit::Kind::Broken: return broken(e.detail);
      case Exit::Kind::Kicked: {
        const std::int64_t deadline = slot.deadline.load(std::memory_order_acquire);
        if (deadline == 0 || slot.over.load(std::memory_order_acquire) != deadline) break;
        return {.kind = Kind::TimedOut,
                .detail = fmt::format("stopped {} after {} s", where(stopped(slot)),
                                      std::chrono::duration<double>(*options.timeout).count())};
      }
    }
  }
}

Outcome Guest::call(const Program& program, std::span<std::byte> context) {
  Call call{.program = &program, .context = context};
  impl_->call(std::span(&call, 1));
  return std::move(call.outcome);
}

void Guest::call(std::span<Call> calls) { impl_->call(calls); }

void Guest::Impl::call(std::span<Call> calls) {
  if (calls.empty()) return;
  const auto slot = take_slot();
  if (!slot) {
    for (Call& c : calls) c.outcome = broken(slot.error().message);
    return;
  }
  begin_watch(**slot);
  run_batch(**slot, calls);
  end_watch(**slot);
  give_slot(*slot);
}

// The list of calls, if there are several, and the contexts behind it are copied into the guest in one piece, and back.
void Guest::Impl::run_batch(Slot& slot, std::span<Call> calls) {
  const bool one = calls.size() == 1;
  const std::uint64_t list_bytes = one ? 0 : calls.size() * sizeof(jit::BatchCall);
  std::uint64_t bytes = list_bytes;
  for (const Call& c : calls) bytes += mm::align_up(c.context.size(), kAlign);
  const auto refuse = [&](mm::Error e) {
    for (Call& c : calls)
      c.outcome = broken(fmt::format("{} KiB of input do not fit into the guest: {}", bytes >> 10, mm::describe(e)));
  };
  if (auto grown = grow(slot, bytes); !grown) return refuse(grown.error());
  slot.staging.resize(bytes);
  std::uint64_t at = list_bytes;
  auto* list = reinterpret_cast<jit::BatchCall*>(slot.staging.data());
  for (std::size_t i = 0; i < calls.size(); ++i) {
    const auto context = calls[i].context;
    if (!context.empty()) std::memcpy(slot.staging.data() + at, context.data(), context.size());
    if (!one)
      list[i] = {.program = calls[i].program->address,
                 .r1 = context.empty() ? 0 : slot.arena + at,
                 .r2 = context.size()};
    at += mm::align_up(context.size(), kAlign);
  }
  if (bytes)
    if (auto written = memory().write(slot.arena, slot.staging); !written) return refuse(written.error());
  if (one) run_one(slot, calls[0]);
  else run_list(slot, calls);
  if (!bytes) return;
  if (auto back = memory().read(slot.arena, slot.staging); !back) return refuse(back.error());
  at = list_bytes;
  for (std::size_t i = 0; i < calls.size(); ++i) {
    Call& c = calls[i];
    if (!one && c.outcome.kind == Kind::Returned) c.outcome.r0 = list[i].r0;
    if (!c.context.empty()) std::memcpy(c.context.data(), slot.staging.data() + at, c.context.size());
    at += mm::align_up(c.context.size(), kAlign);
  }
}

void Guest::Impl::run_one(Slot& slot, Call& call) {
  const jit::EntryCode& code_of = jit::entry_code(set);
  start(slot, code_of.one);
  UserRegs& r = slot.vcpu->regs();
  r[code_of.list] = call.program->address;
  r[code_of.arguments[0]] = call.context.empty() ? 0 : slot.arena, r[code_of.arguments[1]] = call.context.size();
  call.outcome = run(slot);
}

// Goes on after a program that has faulted; a time-out, or a machine that breaks, ends the batch.
void Guest::Impl::run_list(Slot& slot, std::span<Call> calls) {
  const jit::EntryCode& code_of = jit::entry_code(set);
  const std::uint64_t list_bytes = calls.size() * sizeof(jit::BatchCall);
  UserRegs& r = slot.vcpu->regs();
  for (std::size_t first = 0;;) {  // `first`: the first call that has not ended
    start(slot, code_of.batch);
    r[code_of.list] = slot.arena + first * sizeof(jit::BatchCall), r[code_of.end] = slot.arena + list_bytes;
    Outcome ended = run(slot);
    // The guest could write the register: if its value is impossible, nothing more is run.
    const std::uint64_t offset = r[code_of.list] - slot.arena;
    const bool done = ended.kind == Kind::Returned;
    const std::size_t now_at = offset / sizeof(jit::BatchCall);
    const bool sane = offset % sizeof(jit::BatchCall) == 0 &&
                      (done ? offset == list_bytes : now_at >= first && now_at < calls.size());
    if (!sane) {
      for (std::size_t i = first; i < calls.size(); ++i)
        calls[i].outcome = {.kind = Kind::NotRun, .detail = "a program overwrote the batch's registers"};
      if (!done && first < calls.size()) calls[first].outcome = std::move(ended);
      return;
    }
    for (; first < (done ? calls.size() : now_at); ++first) calls[first].outcome = {.kind = Kind::Returned};
    if (done) return;
    const bool goes_on = ended.kind == Kind::Fault;
    calls[first++].outcome = std::move(ended);
    if (goes_on && first < calls.size()) continue;
    for (; first < calls.size(); ++first) calls[first].outcome = {};
    return;
  }
}

}  // namespace ramet::vmm::bpf
