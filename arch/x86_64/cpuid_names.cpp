#include "arch/x86_64/cpuid_names.hpp"

#include <array>

namespace ramet::arch::x86_64 {
namespace {

struct Name {
  std::uint32_t CpuidFeatures::*word;
  unsigned bit;
  const char* name;
};
using F = CpuidFeatures;

constexpr auto kNames = std::to_array<Name>({
    {&F::leaf1_edx, 0, "fpu"}, {&F::leaf1_edx, 4, "tsc"}, {&F::leaf1_edx, 8, "cx8"}, {&F::leaf1_edx, 15, "cmov"},
    {&F::leaf1_edx, 19, "clflush"}, {&F::leaf1_edx, 23, "mmx"}, {&F::leaf1_edx, 24, "fxsr"},
    {&F::leaf1_edx, 25, "sse"}, {&F::leaf1_edx, 26, "sse2"}, {&F::leaf1_edx, 28, "ht"},
    {&F::extended_edx, 11, "syscall"}, {&F::extended_edx, 20, "nx"}, {&F::extended_edx, 22, "mmxext"},
    {&F::extended_edx, 26, "pdpe1gb"}, {&F::extended_edx, 27, "rdtscp"}, {&F::extended_edx, 29, "lm"},
    {&F::leaf1_ecx, 0, "pni"}, {&F::leaf1_ecx, 1, "pclmulqdq"}, {&F::leaf1_ecx, 9, "ssse3"},
    {&F::leaf1_ecx, 12, "fma"}, {&F::leaf1_ecx, 13, "cx16"}, {&F::leaf1_ecx, 19, "sse4_1"},
    {&F::leaf1_ecx, 20, "sse4_2"}, {&F::leaf1_ecx, 22, "movbe"}, {&F::leaf1_ecx, 23, "popcnt"},
    {&F::leaf1_ecx, 25, "aes"}, {&F::leaf1_ecx, 26, "xsave"}, {&F::leaf1_ecx, 28, "avx"},
    {&F::leaf1_ecx, 29, "f16c"}, {&F::leaf1_ecx, 30, "rdrand"}, {&F::leaf1_ecx, 31, "hypervisor"},
    {&F::extended_ecx, 0, "lahf_lm"}, {&F::extended_ecx, 5, "abm"}, {&F::extended_ecx, 6, "sse4a"},
    {&F::extended_ecx, 7, "misalignsse"}, {&F::extended_ecx, 8, "3dnowprefetch"},
    {&F::leaf7_ebx, 0, "fsgsbase"}, {&F::leaf7_ebx, 3, "bmi1"}, {&F::leaf7_ebx, 5, "avx2"},
    {&F::leaf7_ebx, 7, "smep"}, {&F::leaf7_ebx, 8, "bmi2"}, {&F::leaf7_ebx, 9, "erms"},
    {&F::leaf7_ebx, 16, "avx512f"}, {&F::leaf7_ebx, 17, "avx512dq"}, {&F::leaf7_ebx, 18, "rdseed"},
    {&F::leaf7_ebx, 19, "adx"}, {&F::leaf7_ebx, 21, "avx512ifma"}, {&F::leaf7_ebx, 23, "clflushopt"},
    {&F::leaf7_ebx, 24, "clwb"}, {&F::leaf7_ebx, 28, "avx512cd"}, {&F::leaf7_ebx, 29, "sha_ni"},
    {&F::leaf7_ebx, 30, "avx512bw"}, {&F::leaf7_ebx, 31, "avx512vl"}, {&F::xsave_eax, 0, "xsaveopt"},
    {&F::xsave_eax, 1, "xsavec"}, {&F::xsave_eax, 2, "xgetbv1"}, {&F::leaf7_ecx, 1, "avx512vbmi"},
    {&F::leaf7_ecx, 2, "umip"}, {&F::leaf7_ecx, 6, "avx512_vbmi2"}, {&F::leaf7_ecx, 8, "gfni"},
    {&F::leaf7_ecx, 9, "vaes"}, {&F::leaf7_ecx, 10, "vpclmulqdq"}, {&F::leaf7_ecx, 11, "avx512_vnni"},
    {&F::leaf7_ecx, 12, "avx512_bitalg"}, {&F::leaf7_ecx, 14, "avx512_vpopcntdq"}, {&F::leaf7_ecx, 22, "rdpid"},
    {&F::leaf7_edx, 4, "fsrm"}, {&F::leaf7_edx, 14, "serialize"}, {&F::leaf7_edx, 23, "avx512_fp16"},
});

}  // namespace

std::string feature_names(const CpuidFeatures& features) {
  std::string out;
  for (const Name& n : kNames) {
    if ((features.*n.word >> n.bit & 1) == 0) continue;
    if (!out.empty()) out += ' ';
    out += n.name;
  }
  return out;
}

}  // namespace ramet::arch::x86_64
