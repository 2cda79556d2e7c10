// Signal frames of arm64: see signal_frame.hpp.
#include "arch/arm64/signal_frame.hpp"

#include <cstring>
#include <span>

#include "arch/arm64/vdso.hpp"

namespace ramet::arch::arm64 {
namespace {

// Larger frames are refused, as by Linux.
constexpr std::uint64_t kMostFrameBytes = 256 * 1024;

template <class T>
bool get(const ReadMemory& read, std::uint64_t at, T& value) {
  return read(at, std::as_writable_bytes(std::span(&value, 1)));
}
template <class T>
bool put(const WriteMemory& write, std::uint64_t at, const T& value) {
  return write(at, std::as_bytes(std::span(&value, 1)));
}

// The rest of a list of records, which ends at `end` unless its EndRecord comes first.
struct Records {
  std::uint64_t at, end;
  std::uint64_t left() const { return end - at; }
};

// The list that an ExtraRecord of `size` bytes at records.at leads to. An EndRecord must follow the ExtraRecord, and
// the other list the EndRecord; else nullopt.
std::optional<Records> extra_records(const ReadMemory& read, std::uint64_t frame, Records records, std::uint32_t size) {
  ExtraRecord extra;
  RecordHead end;
  if (size < sizeof extra || records.left() - size < sizeof(EndRecord)) return std::nullopt;
  if (!get(read, records.at, extra) || !get(read, records.at + size, end) || end.magic != 0 || end.size != 0)
    return std::nullopt;
  const std::uint64_t data = records.at + size + sizeof(EndRecord);
  if (extra.data != data || data % 16 != 0 || extra.bytes % 16 != 0) return std::nullopt;
  if (extra.bytes > kMostFrameBytes - (data - frame)) return std::nullopt;
  return Records{data, data + extra.bytes};
}

// Where the one FpRecord is. nullopt: the records are not valid to Linux on a processor without other state.
std::optional<std::uint64_t> find_fp(const ReadMemory& read, std::uint64_t frame) {
  constexpr std::uint64_t kRecords = offsetof(SignalFrame, context) + offsetof(SignalContext, records);
  Records records{frame + kRecords, frame + sizeof(SignalFrame)};
  std::optional<std::uint64_t> fp;
  bool extra = false;
  while (records.left() >= sizeof(RecordHead) && records.at % 16 == 0) {
    RecordHead head;
    if (!get(read, records.at, head) || head.size > records.left()) return std::nullopt;
    if (head.magic == 0) return head.size == 0 ? fp : std::nullopt;
    if (head.size < sizeof head) return std::nullopt;
    switch (head.magic) {
      case FpRecord::kMagic:
        if (fp || head.size != sizeof(FpRecord)) return std::nullopt;
        fp = records.at;
        break;
      case EsrRecord::kMagic: break;
      case ExtraRecord::kMagic: {
        const auto next = extra ? std::nullopt : extra_records(read, frame, records, head.size);
        if (!next) return std::nullopt;
        records = *next;
        extra = true;
        continue;
      }
      default: return std::nullopt;
    }
    records.at += head.size;
  }
  return std::nullopt;
}

}  // namespace

bool enter_handler(const Handling& h, std::uint64_t sp, const FpFormat&, UserRegs& regs, FpState& fp,
                   const WriteMemory& write) {
  const FramePlace place = place_frame(sp);
  SignalFrame frame{};
  frame.stack_sp = h.stack.sp;
  frame.stack_flags = h.stack.flags;
  frame.stack_size = h.stack.size;
  frame.mask = h.mask;
  frame.context.fault_address = h.fault.address;
  frame.context.regs = regs;

  std::size_t used = 0;
  const auto add = [&](const auto& record) {
    std::memcpy(frame.context.records.data() + used, &record, sizeof record);
    used += sizeof record;
  };
  FpSimd state;
  std::memcpy(&state, fp.area.data(), sizeof state);
  add(FpRecord{.head = {FpRecord::kMagic, sizeof(FpRecord)}, .fpsr = state.fpsr, .fpcr = state.fpcr, .v = state.v});
  if (h.fault.error != 0) add(EsrRecord{.head = {EsrRecord::kMagic, sizeof(EsrRecord)}, .esr = h.fault.error});
  add(EndRecord{});

  // As Linux does, leaves the program's memory unchanged after the last record, and in siginfo_t without SA_SIGINFO.
  constexpr std::size_t kContext = offsetof(SignalFrame, uc_flags);
  const std::size_t written = offsetof(SignalFrame, context) + offsetof(SignalContext, records) + used;
  if (!write(place.frame + kContext, std::as_bytes(std::span(&frame, 1)).subspan(kContext, written - kContext)))
    return false;
  if (h.wants_info && !write(place.frame, h.info)) return false;
  if (!put(write, place.record, FrameRecord{.fp = regs[Fp], .lr = regs[Lr]})) return false;

  regs[X0] = static_cast<std::uint64_t>(h.signal);
  if (h.wants_info) {
    regs[X0 + 1] = place.frame + offsetof(SignalFrame, info);
    regs[X0 + 2] = place.frame + offsetof(SignalFrame, uc_flags);
  }
  regs[Fp] = place.record;
  regs[Lr] = h.restorer.value_or(h.vdso + vdso_rt_sigreturn());
  regs[Sp] = place.frame;
  regs[Pc] = h.handler;
  regs[Pstate] &= ~(pstate::kBranchType | pstate::kTagCheckOverride);
  return true;
}

std::optional<Returned> leave_handler(const UserRegs& regs, const FpFormat&, FpState& fp, const ReadMemory& read) {
  const std::uint64_t at = regs[Sp];
  if (at % 16 != 0) return std::nullopt;
  // All but the records.
  SignalFrame frame;
  constexpr std::size_t kRead = offsetof(SignalFrame, context) + offsetof(SignalContext, records);
  if (!read(at, std::as_writable_bytes(std::span(&frame, 1)).first(kRead))) return std::nullopt;
  Returned back{.regs = frame.context.regs,
                .mask = frame.mask,
                .stack = {.sp = frame.stack_sp, .size = frame.stack_size, .flags = frame.stack_flags}};
  // The frame is not one of 64-bit user code.
  if (back.regs[Pstate] & (pstate::kMode | pstate::kMasks)) return std::nullopt;
  back.regs[Pstate] = (back.regs[Pstate] & kUserFlags) | kFixedFlags;

  const auto record_at = find_fp(read, at);
  FpRecord record;
  if (!record_at || !get(read, *record_at, record)) return std::nullopt;
  if (record.head.magic != FpRecord::kMagic || record.head.size != sizeof record) return std::nullopt;  // changed since
  const FpSimd state{.v = record.v, .fpsr = record.fpsr, .fpcr = record.fpcr, .reserved = {}};
  reset(fp);
  std::memcpy(fp.area.data(), &state, sizeof state);
  return back;
}

}  // namespace ramet::arch::arm64
