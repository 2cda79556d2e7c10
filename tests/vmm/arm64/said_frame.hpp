// What a process may say of a trap's frame, true or made up, on arm64. Its twin has the same names.
#pragma once

#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "arch/arm64/signal_frame.hpp"
#include "tests/vmm/said_area.hpp"

namespace ramet::vmm::process {

struct SaidFrame {
  using Head = arch::arm64::RecordHead;
  static constexpr std::uint64_t kRecords = offsetof(arch::arm64::SignalFrame, context) +
                                            offsetof(arch::arm64::SignalContext, records);
  static constexpr std::uint32_t kRoom = arch::arm64::SignalContext::kRecordBytes;
  static constexpr Head kFp{arch::arm64::FpRecord::kMagic, sizeof(arch::arm64::FpRecord)};

  std::uint64_t at;
  std::vector<Head> heads;       // of the records, one behind the other; the last may be wrong
  std::optional<bool> first_fp;  // the first record with the magic number of floating point has its size too

  static SaidFrame say(Draws& n, const Said& said) {
    SaidFrame f{.at = n.place(sizeof(arch::arm64::SignalFrame), 16), .heads = {}, .first_fp = {}};
    const bool begins_long = n.below(3) == 0;
    for (std::uint32_t left = kRoom; left >= sizeof(Head);) {
      const Head h = draw(n, left, begins_long && f.heads.empty());
      f.heads.push_back(h);
      if (f.lies()) said.put(f.at - kSaidBase + kRecords + kRoom - left, h);
      if (h.magic == 0 || h.size < sizeof h || h.size % 8 != 0 || h.size > left) break;
      if (h.magic == kFp.magic && !f.first_fp) f.first_fp = h.size == kFp.size;
      left -= h.size;
    }
    said.put(SAID_INFO, f.at);
    said.put(SAID_FRAME, n.random());  // where ucontext is follows from where siginfo is
    return f;
  }
  bool lies() const { return lies_in(at, sizeof(arch::arm64::SignalFrame), 16); }
  bool usable() const { return lies() && first_fp.value_or(false); }
  std::string words() const {
    std::ostringstream s;
    s << std::hex << "frame " << at;
    for (const Head& h : heads) s << ", " << h.magic << ':' << h.size;
    return s.str();
  }

 private:
  // The head of a record where there is so much room.
  static Head draw(Draws& n, std::uint32_t left, bool long_one) {
    const std::uint32_t fits = left / 8 * 8;
    if (long_one) return {arch::arm64::ExtraRecord::kMagic, fits - 8 * static_cast<std::uint32_t>(n.below(80))};
    switch (n.below(8)) {
      case 0: return {arch::arm64::EsrRecord::kMagic, sizeof(arch::arm64::EsrRecord)};
      case 1: return {static_cast<std::uint32_t>(n.random()), static_cast<std::uint32_t>(n.random() >> n.below(64))};
      case 2: return {kFp.magic, kFp.size + static_cast<std::uint32_t>(n.below(3)) * 8 - 8};
      case 3: return {static_cast<std::uint32_t>(n.below(2)) * kFp.magic, static_cast<std::uint32_t>(n.below(20))};
      case 4: return {arch::arm64::EsrRecord::kMagic, left + static_cast<std::uint32_t>(n.below(3)) * 8 - 8};
      case 5: return {arch::arm64::ExtraRecord::kMagic, 8 + 8 * static_cast<std::uint32_t>(n.below(20))};
      default: return kFp;
    }
  }
};

}  // namespace ramet::vmm::process
