// The frame that Linux puts on an arm64 program's stack when it runs a signal handler, byte for byte (struct
// rt_sigframe; its layout is user ABI). Programs read and edit it, unwinders parse it.
//
//   higher   FrameRecord, which x29 points to: unwinders see the handler as called by the interrupted code
//            SignalFrame, at the handler's stack pointer, a multiple of 16
//              its last 4096 bytes: records of the processor's other state, each of a magic number and a size,
//              the last of both 0
//   lower
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "arch/arm64/user_state.hpp"
#include "arch/signal_frame.hpp"

namespace ramet::arch::arm64 {

struct RecordHead {     // struct _aarch64_ctx
  std::uint32_t magic, size;
};
struct FpRecord {       // struct fpsimd_context
  static constexpr std::uint32_t kMagic = 0x46508001;
  RecordHead head;
  std::uint32_t fpsr, fpcr;
  std::array<std::array<std::byte, 16>, 32> v;
};
struct EsrRecord {      // struct esr_context
  static constexpr std::uint32_t kMagic = 0x45535201;
  RecordHead head;
  std::uint64_t esr;
};
// Further records are at `data`, right after the EndRecord of this list.
struct ExtraRecord {    // struct extra_context
  static constexpr std::uint32_t kMagic = 0x45585401;
  RecordHead head;
  std::uint64_t data;
  std::uint32_t bytes;
  std::array<std::uint32_t, 3> reserved;
};
struct EndRecord {
  RecordHead head;
  std::uint64_t padding;
};
static_assert(sizeof(FpRecord) == 528 && sizeof(EsrRecord) == 16 && sizeof(ExtraRecord) == 32 &&
              sizeof(EndRecord) == 16);

struct SignalContext {  // struct sigcontext
  static constexpr std::size_t kRecordBytes = 4096;
  std::uint64_t fault_address;
  UserRegs regs;        // struct user_pt_regs
  alignas(16) std::array<std::byte, kRecordBytes> records;
};
struct SignalFrame {
  std::array<std::byte, 128> info;  // siginfo_t
  std::uint64_t uc_flags, uc_link;
  std::uint64_t stack_sp;
  std::int32_t stack_flags;
  std::uint32_t stack_pad;
  std::uint64_t stack_size;
  std::uint64_t mask;
  std::array<std::byte, 120> mask_room;  // for 1024 signals
  alignas(16) SignalContext context;
};
static_assert(offsetof(SignalContext, records) == 288 && sizeof(SignalContext) == 4384);
static_assert(offsetof(SignalFrame, uc_flags) == 128 && offsetof(SignalFrame, mask) == 168);
static_assert(offsetof(SignalFrame, context) == 304 && sizeof(SignalFrame) == 4688);

struct FrameRecord {
  std::uint64_t fp, lr;
};

struct FramePlace {
  std::uint64_t record, frame;
};
// Where the two pieces go below `sp`. Wraps for a tiny sp: writing then fails.
constexpr FramePlace place_frame(std::uint64_t sp) {
  const std::uint64_t record = (sp - sizeof(FrameRecord)) & ~std::uint64_t{15};
  return {record, record - sizeof(SignalFrame)};
}
// AT_MINSIGSTKSZ: what a handler's frame takes at most.
inline constexpr std::uint64_t kMaxFrameBytes = sizeof(SignalFrame) + sizeof(FrameRecord) + 16;

// See GuestAbi.
bool enter_handler(const Handling&, std::uint64_t sp, const FpFormat&, UserRegs&, FpState&, const WriteMemory&);
std::optional<Returned> leave_handler(const UserRegs&, const FpFormat&, FpState&, const ReadMemory&);

}  // namespace ramet::arch::arm64
