// What a process may say of a trap's frame, true or made up, on x86-64. Its twin has the same names.
#pragma once

#include <sstream>
#include <string>

#include "arch/x86_64/signal_frame.hpp"
#include "tests/vmm/said_area.hpp"

namespace ramet::vmm::process {

// Of the kernel's struct ucontext, siginfo, struct _fpstate and struct _fpx_sw_bytes.
inline constexpr std::uint64_t kContextBytes = 304, kRegisters = 40, kInfoBytes = 128, kLegacyBytes = 512,
                               kXstateSize = 464 + 16;

struct SaidFrame {
  std::uint64_t context, info, fp;
  std::uint32_t size;  // of what is at fp

  static SaidFrame say(Draws& n, const Said& said) {
    SaidFrame f{.context = n.place(kContextBytes, 8),
                .info = n.place(kInfoBytes, 8),
                .fp = n.place(kLegacyBytes, 64),
                .size = 0};
    const std::uint64_t room = kSaidBase + RAMET_SAID_SIZE - f.fp;
    switch (n.below(4)) {
      case 0: f.size = static_cast<std::uint32_t>(room + n.below(3) - 1); break;
      case 1: f.size = static_cast<std::uint32_t>(kLegacyBytes + n.below(3) - 1); break;
      case 2: f.size = static_cast<std::uint32_t>(n.random() >> n.below(64)); break;
      default: f.size = static_cast<std::uint32_t>(n.below(RAMET_SAID_SIZE)); break;
    }
    said.put(SAID_FRAME, f.context);
    said.put(SAID_INFO, f.info);
    if (f.fp_lies()) said.put(f.fp - kSaidBase + kXstateSize, f.size);
    const std::uint64_t pointer = f.context + kRegisters + offsetof(arch::x86_64::SignalContext, fpstate);
    if (lies_in(pointer, sizeof fp, 1)) said.put(pointer - kSaidBase, f.fp);
    // The pieces may overlap: what counts is what the area holds in the end.
    if (f.fp_lies()) f.size = said.get<std::uint32_t>(f.fp - kSaidBase + kXstateSize);
    return f;
  }
  bool fp_lies() const { return lies_in(fp, kLegacyBytes, 64); }
  bool usable() const {
    return lies_in(context, kContextBytes, 8) && lies_in(info, kInfoBytes, 8) && fp_lies() && size >= kLegacyBytes &&
           fp + size <= kSaidBase + RAMET_SAID_SIZE;
  }
  std::string words() const {
    std::ostringstream s;
    s << std::hex << "context " << context << ", info " << info << ", fp " << fp << ", size " << size;
    return s.str();
  }
};

}  // namespace ramet::vmm::process
