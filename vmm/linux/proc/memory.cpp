#include "vmm/linux/proc/memory.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "vmm/linux/checked.hpp"
#include "vmm/linux/files/state.hpp"
#include "vmm/linux/proc/content.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {
namespace {

struct Shown {
  mm::Region region;
  std::uint64_t resident = 0, blocks = 0;  // bytes; `blocks`: those of them in leaves of 2 MiB and more
};

std::vector<Shown> shown(const mm::AddressSpace& memory) {
  std::vector<Shown> all;
  memory.visit_regions([&](const mm::Region& r) { all.push_back({.region = r}); });
  memory.dump([&](const mm::AddressSpace::Node& n) {
    if (n.table) return;
    auto after = std::ranges::upper_bound(all, n.start, {}, [](const Shown& s) { return s.region.start; });
    if (after == all.begin() || !(after - 1)->region.contains(n.start)) return;
    (after - 1)->resident += arch::span_of(n.level);
    if (n.level != arch::Level::Pte) (after - 1)->blocks += arch::span_of(n.level);
  });
  return all;
}

// Bytes, by the names that smaps has for them.
struct Sums {
  std::uint64_t size = 0, resident = 0, shared = 0, clean = 0, dirty = 0, anonymous = 0, blocks = 0, locked = 0;
  void add(const Shown& s) {
    const mm::Region& r = s.region;
    size += r.length();
    resident += s.resident;
    (r.shared ? shared : r.backing && !mm::has(r.prot, mm::Prot::Write) ? clean : dirty) += s.resident;
    if (!r.backing) anonymous += s.resident, blocks += s.blocks;
    if (r.locked) locked += s.resident;
  }
};

std::string text_of(const Sums& s) {
  std::string out;
  const auto line = [&](std::string_view name, std::uint64_t bytes) {
    out += fmt::format("{:<16}{:8} kB\n", std::string(name) + ":", bytes / 1024);
  };
  line("Rss", s.resident);
  line("Pss", s.resident);
  line("Shared_Clean", 0);
  line("Shared_Dirty", s.shared);
  line("Private_Clean", s.clean);
  line("Private_Dirty", s.dirty);
  line("Referenced", s.resident);
  line("Anonymous", s.anonymous);
  line("LazyFree", 0);
  line("AnonHugePages", s.blocks);
  for (std::string_view name :
       {"ShmemPmdMapped", "FilePmdMapped", "Shared_Hugetlb", "Private_Hugetlb", "Swap", "SwapPss"})
    line(name, 0);
  line("Locked", s.locked);
  return out;
}

std::string flags_of(const mm::Region& r) {
  std::string out = "VmFlags: ";
  const auto add = [&](bool set, std::string_view flag) {
    if (set) out.append(flag).push_back(' ');
  };
  add(mm::has(r.prot, mm::Prot::Read), "rd");
  add(mm::has(r.prot, mm::Prot::Write), "wr");
  add(mm::has(r.prot, mm::Prot::Exec), "ex");
  add(r.shared, "sh");
  add(mm::has(r.max_prot, mm::Prot::Read), "mr");
  add(mm::has(r.max_prot, mm::Prot::Write), "mw");
  add(mm::has(r.max_prot, mm::Prot::Exec), "me");
  add(r.shared && mm::has(r.max_prot, mm::Prot::Write), "ms");
  add(r.grows_down, "gd");
  add(r.locked, "lo");
  add(r.dont_fork, "dc");
  add(r.wipe_on_fork, "wf");
  add(r.huge == mm::Region::Huge::Always, "hg");
  add(r.huge == mm::Region::Huge::Never, "nh");
  return out + "\n";
}

constexpr std::size_t kPart = 1 << 16;  // bytes at a time

// mem: reads `length` bytes at address `at`, or those before the first that is not mapped; -EIO if there are none.
std::int64_t read_mem(mm::AddressSpace& memory, const UserBuffers& to, std::uint64_t at, std::uint64_t length) {
  std::vector<std::byte> part;
  std::uint64_t done = 0;
  while (done < length) {
    part.resize(std::min<std::uint64_t>({length - done, kPart, mm::kPageSize - (at + done) % mm::kPageSize}));
    if (!memory.read(at + done, part)) return done ? static_cast<std::int64_t>(done) : -EIO;
    if (!to.put(done, part)) return -EFAULT;
    done += part.size();
  }
  return static_cast<std::int64_t>(done);
}

// pagemap: a word for each page, which says whether it is present. Frame numbers are not shown.
std::int64_t read_pagemap(mm::AddressSpace& memory, const UserBuffers& to, std::uint64_t at, std::uint64_t length,
                          mm::Gva end) {
  constexpr std::uint64_t kPresent = 1ull << 63, kSoftDirty = 1ull << 55;
  if (at % sizeof(std::uint64_t) || length % sizeof(std::uint64_t)) return -EINVAL;
  const std::uint64_t first = at / sizeof(std::uint64_t), pages = end / mm::kPageSize;
  if (first >= pages) return 0;
  const std::uint64_t count = std::min(length / sizeof(std::uint64_t), pages - first);
  std::uint8_t there = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const mm::Gva page = (first + i) * mm::kPageSize;
    const bool present = memory.residency(page, mm::kPageSize, {&there, 1}) && there;
    const std::uint64_t word = present ? kPresent | kSoftDirty : 0;
    if (!to.put(i * sizeof word, std::as_bytes(std::span(&word, 1)))) return -EFAULT;
  }
  return static_cast<std::int64_t>(count * sizeof(std::uint64_t));
}

}  // namespace

OrErrno<std::string> smaps(const mm::AddressSpace& memory) {
  std::string out;
  for (const Shown& s : shown(memory)) {
    Sums sums;
    sums.add(s);
    out += fmt::format(
        "{}\nSize:           {:8} kB\nKernelPageSize: {:8} kB\nMMUPageSize:    {:8} kB\n{}THPeligible:           {}\n{}",
        maps_line(s.region), sums.size / 1024, mm::kPageSize / 1024, mm::kPageSize / 1024, text_of(sums),
        s.region.backing ? 0 : 1, flags_of(s.region));
    if (out.size() > kMostMaps) return err(ENOMEM);
  }
  return out;
}

std::string smaps_rollup(const mm::AddressSpace& memory) {
  Sums sums;
  const auto all = shown(memory);
  for (const Shown& s : all) sums.add(s);
  const mm::Gva start = all.empty() ? 0 : all.front().region.start, end = all.empty() ? 0 : all.back().region.end;
  return fmt::format("{:08x}-{:08x} ---p 00000000 00:00 0                          [rollup]\n{}", start, end,
                     text_of(sums));
}

std::optional<std::int64_t> read_process_memory(Thread& thread, const OpenFile& file, const UserBuffers& to,
                                                std::int64_t offset) {
  const auto place = proc_place({state_of(thread), &thread.process, thread.tid}, file.path);
  const bool bytes = place && place->rest == "mem";
  if (!bytes && !(place && place->rest == "pagemap")) return std::nullopt;
  const auto image = place->process->image();
  if (!image) return 0;  // it has ended
  const std::int64_t at = offset == kCurrentOffset ? ::lseek(file.host.get(), 0, SEEK_CUR) : offset;
  if (at < 0) return -EINVAL;
  const std::uint64_t length = std::min<std::uint64_t>(to.bytes(), kPart * 16);
  const std::int64_t n = bytes ? read_mem(image->memory(), to, static_cast<std::uint64_t>(at), length)
                               : read_pagemap(image->memory(), to, static_cast<std::uint64_t>(at), length,
                                              image->abi.user_end);
  if (n > 0 && offset == kCurrentOffset && ::lseek(file.host.get(), at + n, SEEK_SET) < 0) return -errno;
  return n;
}

}  // namespace ramet::vmm
