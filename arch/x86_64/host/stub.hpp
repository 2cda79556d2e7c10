// The trap stub of x86-64 guests as the VMM sees it: its code, its entry points, its ports.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

extern "C" {
extern const std::byte ramet_stub_begin[], ramet_stub_syscall[], ramet_stub_flush_only[], ramet_stub_flush[],
    ramet_stub_reload[], ramet_stub_resume[], ramet_stub_end[];
}

namespace ramet::arch::x86_64::stub {

inline constexpr unsigned kVectors = 32;         // port N reports exception N
inline constexpr unsigned kSyscallPort = 0x20;
inline constexpr unsigned kFlushedPort = 0x21;   // the flush on behalf of other vCPUs is done

inline std::span<const std::byte> code() { return {ramet_stub_begin, ramet_stub_end}; }

// Offsets from the start of the stub.
constexpr std::uint64_t vector_entry(unsigned vector) { return 8 * vector; }
inline std::uint64_t syscall_entry() { return std::uint64_t(ramet_stub_syscall - ramet_stub_begin); }
inline std::uint64_t flush_only() { return std::uint64_t(ramet_stub_flush_only - ramet_stub_begin); }
inline std::uint64_t flush() { return std::uint64_t(ramet_stub_flush - ramet_stub_begin); }
inline std::uint64_t reload() { return std::uint64_t(ramet_stub_reload - ramet_stub_begin); }
inline std::uint64_t resume() { return std::uint64_t(ramet_stub_resume - ramet_stub_begin); }
// The ways back to user code are [flush(), size()).
inline std::uint64_t size() { return code().size(); }

}  // namespace ramet::arch::x86_64::stub
