#include "jit/entry_code.hpp"

#include <cstring>

#include "arch/arm64/user_state.hpp"
#include "arch/x86_64/user_state.hpp"

namespace ramet::jit {
namespace {

static_assert(kDone == 0x0fff);

constexpr std::uint8_t kX86[] = {
    // batch:
    0x4c, 0x39, 0xe3,              // cmp rbx, r12
    0x73, 0x16,                    // jae done
    0x48, 0x8b, 0x7b, 0x08,        // mov rdi, [rbx + 8]
    0x48, 0x8b, 0x73, 0x10,        // mov rsi, [rbx + 16]
    0xff, 0x13,                    // call [rbx]
    0x48, 0x89, 0x43, 0x18,        // mov [rbx + 24], rax
    0x48, 0x83, 0xc3, 0x20,        // add rbx, 32
    0xeb, 0xe7,                    // jmp batch
    // one:
    0xff, 0xd3,                    // call rbx
    // done:
    0x48, 0x89, 0xc7,              // mov rdi, rax
    0xb8, 0xff, 0x0f, 0x00, 0x00,  // mov eax, kDone
    0x0f, 0x05,                    // syscall
    0x0f, 0x0b,                    // ud2
};

constexpr std::uint32_t kArmSvc = 0xd4000001, kArmRet = 0xd65f03c0;
constexpr std::uint32_t arm_number(std::uint32_t n) { return 0x52800008 | n << 5; }  // mov w8, #n

constexpr std::uint32_t kArm[] = {
    // batch:
    0xeb14027f,         // cmp x19, x20
    0x54000102,         // b.hs done
    0xf9400269,         // ldr x9, [x19]
    0xa9408660,         // ldp x0, x1, [x19, #8]
    0xd63f0120,         // blr x9
    0xf9000e60,         // str x0, [x19, #24]
    0x91008273,         // add x19, x19, #32
    0x17fffff9,         // b batch
    // one:
    0xd63f0260,         // blr x19
    // done:
    arm_number(kDone), kArmSvc,
    0xd4200000,         // brk #0
};

std::span<const std::uint8_t> bytes(std::span<const std::uint32_t> words) {
  return {reinterpret_cast<const std::uint8_t*>(words.data()), words.size_bytes()};
}

}  // namespace

const EntryCode& entry_code(InstructionSet set) {
  static const EntryCode x86{.code = kX86,
                             .batch = 0,
                             .one = 25,
                             .list = arch::x86_64::Rbx,
                             .end = arch::x86_64::R12,
                             .arguments = {arch::x86_64::Rdi, arch::x86_64::Rsi}};
  static const EntryCode arm{.code = bytes(kArm), .batch = 0, .one = 32, .list = 19, .end = 20, .arguments = {0, 1}};
  return set == InstructionSet::X86_64 ? x86 : arm;
}

std::vector<std::uint8_t> helper_stub(InstructionSet set, std::uint32_t number) {
  const std::uint32_t call = kFirstHelper + number;
  if (set == InstructionSet::X86_64) {
    std::vector<std::uint8_t> code = {
        0x49, 0x89, 0xca,              // mov r10, rcx: the fourth argument, which a system call takes there
        0xb8, 0x00, 0x00, 0x00, 0x00,  // mov eax, call
        0x0f, 0x05, 0xc3};             // syscall; ret
    std::memcpy(code.data() + 4, &call, sizeof call);
    return code;
  }
  const std::uint32_t code[] = {arm_number(call), kArmSvc, kArmRet};
  const auto all = bytes(code);
  return {all.begin(), all.end()};
}

std::vector<std::uint8_t> traps(InstructionSet set, std::size_t size) {
  if (set == InstructionSet::X86_64) return std::vector<std::uint8_t>(size, 0xcc);  // int3
  constexpr std::uint8_t kBrk[] = {0x00, 0x00, 0x20, 0xd4};
  std::vector<std::uint8_t> all(size);
  for (std::size_t i = 0; i < size; ++i) all[i] = kBrk[i % sizeof kBrk];
  return all;
}

}  // namespace ramet::jit
