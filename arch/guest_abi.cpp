#include "arch/guest_abi.hpp"

#include <fcntl.h>

#include <initializer_list>

#include "arch/arm64/guest_abi.hpp"
#include "arch/x86_64/guest_abi.hpp"

namespace ramet::arch {
namespace {

constexpr GuestAbi::OpenFlags kHost{.directory = O_DIRECTORY,
                                    .nofollow = O_NOFOLLOW,
                                    .direct = O_DIRECT,
                                    .large_file = kLargeFile};
constexpr std::uint32_t kOpenBits = kHost.directory | kHost.nofollow | kHost.direct | kHost.large_file;

std::uint64_t translated(std::uint64_t flags, const GuestAbi::OpenFlags& from, const GuestAbi::OpenFlags& to) {
  return (flags & ~std::uint64_t{kOpenBits}) | (flags & from.directory ? to.directory : 0) |
         (flags & from.nofollow ? to.nofollow : 0) | (flags & from.direct ? to.direct : 0) |
         (flags & from.large_file ? to.large_file : 0);
}

}  // namespace

std::uint64_t GuestAbi::open_flags_to_host(std::uint64_t flags) const { return translated(flags, open, kHost); }
std::uint64_t GuestAbi::open_flags_to_guest(std::uint64_t flags) const { return translated(flags, kHost, open); }

const GuestAbi* find_guest_abi(std::uint32_t elf_machine) {
  for (const GuestAbi* abi : {&x86_64::kGuestAbi, &arm64::kGuestAbi})
    if (abi->elf_machine == elf_machine) return abi;
  return nullptr;
}

}  // namespace ramet::arch
