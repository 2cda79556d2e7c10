#include "vmm/linux/program/vdso.hpp"

#include <utility>

namespace ramet::vmm {
namespace {

using arch::VdsoData;
using mm::Prot;

// The clocks that the host's function reads without a system call, if the host's clock source allows that.
constexpr clockid_t kTold[] = {
    CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE,
    CLOCK_BOOTTIME, CLOCK_TAI};

VdsoData data_for(const Machine& machine, const Clocks& clocks) {
  VdsoData data;
  data.host = machine.host_vdso();
  if (!data.host.clock_gettime) return data;
  for (const clockid_t clock : kTold) {
    const timespec offset = clocks.offset(clock);
    const auto bit = 1u << clock;
    (is_zero(offset) ? data.same : data.moved) |= bit;
    data.offsets[static_cast<std::size_t>(clock)] = {offset.tv_sec, offset.tv_nsec};
  }
  return data;
}

}  // namespace

mm::Result<> map_vdso(Image& image, mm::Gva at, const Clocks& clocks) {
  mm::AddressSpace& memory = image.memory();
  const mm::Gva code = at + VDSO_PAGE;
  for (const auto& [address, name] : {std::pair{at, "[vvar]"}, std::pair{code, "[vdso]"}}) {
    auto mapped = memory.map({.address = address,
                              .length = VDSO_PAGE,
                              .prot = Prot::Read | Prot::Write,
                              .fixed = true,
                              .backing = nullptr,
                              .name = name});
    if (!mapped) return mm::fail(mapped.error());
  }
  const VdsoData data = data_for(image.machine(), clocks);
  auto done = memory.write(at, std::as_bytes(std::span(&data, 1)));
  if (done) done = memory.write(code, image.machine().vdso_image());
  if (done) done = memory.protect(at, VDSO_PAGE, Prot::Read);
  if (done) done = memory.protect(code, VDSO_PAGE, Prot::Read | Prot::Exec);
  if (done) image.vdso = code;
  return done;
}

mm::Result<> renew_vdso(Image& image, const Clocks& clocks) {
  mm::AddressSpace& memory = image.memory();
  const mm::Gva at = image.vdso - VDSO_PAGE;
  const auto region = memory.find_region(at);
  if (!image.vdso || !region || region->name != "[vvar]" || region->backing || at + VDSO_PAGE > region->end) return {};
  const VdsoData data = data_for(image.machine(), clocks);
  const Prot before = region->prot;
  auto done = memory.protect(at, VDSO_PAGE, Prot::Read | Prot::Write);
  if (done) done = memory.write(at, std::as_bytes(std::span(&data, 1)));
  if (done) done = memory.protect(at, VDSO_PAGE, before);
  return done;
}

bool in_vdso(const Image& image, mm::Gva pc) {
  if (!image.machine().host_vdso().clock_gettime) return false;
  return image.in_host_vdso(pc) || (image.vdso && pc >= image.vdso && pc - image.vdso < VDSO_PAGE);
}

}  // namespace ramet::vmm
