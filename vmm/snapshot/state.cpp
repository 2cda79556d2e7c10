// The JSON form of a process's state.
#include "vmm/snapshot/state.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace ramet::vmm::snapshot {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(SignalActionState, handler, flags, restorer, mask)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CredentialsState, user, group, groups, capabilities, securebits)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ThreadState, tid, name, regs, bases, fp, clear_child_tid, robust_list, blocked,
                                   pending, altstack, altstack_size, altstack_flags, nice, policy, priority,
                                   reset_on_fork, io_priority, credentials)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(OwnerState, type, id, real, effective, signal, number, async)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TimerFdState, clock, left, interval, expired, absolute, cancelled_by_set)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(WatchState, fd, file, events, data)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(FileState, kind, standard, path, flags, offset, device, inode, size, modified, owner,
                                   count, semaphore, mask, pipe, timer, watches)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(PipeState, bytes, contents)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(DescriptorState, fd, file, close_on_exec)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(MappingState, file, shared, offset, length)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RegionState, start, end, prot, max_prot, huge, shared, grows_down, dont_fork,
                                   wipe_on_fork, locked, mapping, offset, name)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ProcessorState, model, features, fp_components, fp_bytes)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ProcessState, when, at_hook, parent, shares, processor, pid, generation,
                                   generation_signal, threads, actions, pending, limits, deny_wx, oom_adjustment,
                                   oom_least, umask, directory, timers, clocks, executable, executable_file, arguments,
                                   environment, auxv, stack_top, stack_limit, brk_start, brk, lock_to_come,
                                   memory_bytes, mmap_top, files, pipes, descriptors, mappings, regions)

std::expected<std::string, Failure> to_text(const ProcessState& state) try {
  return nlohmann::json(state).dump();
} catch (const nlohmann::json::exception&) {
  return failure("the program has arguments, variables or files whose names are not UTF-8; it cannot be saved");
}

std::expected<ProcessState, Failure> from_text(std::string_view text) try {
  return nlohmann::json::parse(text).get<ProcessState>();
} catch (const nlohmann::json::exception& e) {
  return failure(std::string("its process state is not what ramet writes: ") + e.what());
}

std::string to_hex(std::span<const std::byte> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const std::byte b : bytes) {
    text += kDigits[static_cast<unsigned>(b) >> 4];
    text += kDigits[static_cast<unsigned>(b) & 15];
  }
  return text;
}

bool from_hex(std::string_view text, std::span<std::byte> out) {
  const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
  if (text.size() % 2 || text.size() / 2 > out.size()) return false;
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const int high = digit(text[i]), low = digit(text[i + 1]);
    if (high < 0 || low < 0) return false;
    out[i / 2] = static_cast<std::byte>(high << 4 | low);
  }
  return true;
}

}  // namespace ramet::vmm::snapshot
