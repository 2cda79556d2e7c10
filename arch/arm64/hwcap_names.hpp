// Features of an arm64 processor: the bits of AT_HWCAP and AT_HWCAP2 by the names that /proc/cpuinfo gives them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace ramet::arch::arm64 {

// By bit (Linux: arch/arm64/include/uapi/asm/hwcap.h).
inline constexpr auto kHwcapNames = std::to_array<std::string_view>(
    {"fp",    "asimd",    "evtstrm", "aes",   "pmull",  "sha1",  "sha2", "crc32", "atomics", "fphp",    "asimdhp",
     "cpuid", "asimdrdm", "jscvt",   "fcma",  "lrcpc",  "dcpop", "sha3", "sm3",   "sm4",     "asimddp", "sha512",
     "sve",   "asimdfhm", "dit",     "uscat", "ilrcpc", "flagm", "ssbs", "sb",    "paca",    "pacg"});
inline constexpr auto kHwcap2Names = std::to_array<std::string_view>(
    {"dcpodp",    "sve2",      "sveaes",    "svepmull", "svebitperm", "svesha3", "svesm4",    "flagm2",    "frint",
     "svei8mm",   "svef32mm",  "svef64mm",  "svebf16",  "i8mm",       "bf16",    "dgh",       "rng",       "bti",
     "mte",       "ecv",       "afp",       "rpres",    "mte3",       "sme",     "smei16i64", "smef64f64", "smei8i32",
     "smef16f32", "smeb16f32", "smef32f32", "smefa64",  "wfxt",       "ebf16",   "sveebf16"});

// The bit of AT_HWCAP that a feature has.
consteval std::uint64_t hwcap(std::string_view name) {
  for (std::size_t bit = 0; bit < kHwcapNames.size(); ++bit)
    if (kHwcapNames[bit] == name) return 1ull << bit;
  throw "no such feature";  // does not compile
}

// Separated by single spaces.
std::string feature_names(std::uint64_t hwcap, std::uint64_t hwcap2);

}  // namespace ramet::arch::arm64
