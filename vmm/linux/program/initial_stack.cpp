// Laying out the first stack.
//
//   stack_top   8 zero bytes, then downwards: strings, 16 random bytes
//               (16-byte aligned)
//               auxv pairs, AT_NULL; envp, 0; argv, 0
//   sp          argc
#include "vmm/linux/program/initial_stack.hpp"

#include <fmt/format.h>
#include <linux/auxvec.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cstring>

namespace ramet::vmm {
namespace {

constexpr std::uint64_t kMinSigStack = 51;  // AT_MINSIGSTKSZ, which older headers lack

// The strings' bytes, filled from the top down.
class Strings {
 public:
  explicit Strings(mm::Gva top) : top_(top) {}
  mm::Gva add(std::string_view bytes) {
    reversed_.append(bytes.rbegin(), bytes.rend());
    return top_ - reversed_.size();
  }
  mm::Gva add_string(std::string_view s) {
    reversed_.push_back('\0');
    return add(s);
  }
  mm::Gva bottom() const { return top_ - reversed_.size(); }
  std::string bytes() const { return {reversed_.rbegin(), reversed_.rend()}; }

 private:
  mm::Gva top_;
  std::string reversed_;
};

}  // namespace

std::expected<mm::Gva, Failure> build_stack(Image& image, const StackContents& c) {
  std::uint64_t total = 0;
  for (const auto* list : {c.arguments, c.environment})
    for (const std::string& s : *list) total += s.size() + 1 + sizeof(std::uint64_t);
  if (total > image.stack_limit / 4)
    return failure(fmt::format("arguments and environment take {} KiB, more than a quarter of the stack", total >> 10),
                   126);

  Strings strings(image.stack_top - 8);
  const mm::Gva executable = strings.add_string(c.executable);
  std::vector<mm::Gva> environment, arguments;
  for (const std::string& s : *c.environment) environment.push_back(strings.add_string(s));
  for (const std::string& s : *c.arguments) arguments.push_back(strings.add_string(s));
  const mm::Gva platform = strings.add_string(image.abi.machine);
  std::array<char, 16> seed{};
  if (getrandom(seed.data(), seed.size(), 0) != static_cast<ssize_t>(seed.size()))
    return failure("the host gave no random bytes", 125);
  const mm::Gva random = strings.add({seed.data(), seed.size()});

  const auto& features = image.machine().features();
  auto& auxv = image.auxv;
  auxv = {{AT_SYSINFO_EHDR, image.vdso},
          {AT_HWCAP, features.hwcap},
          {AT_PAGESZ, mm::kPageSize},
          {AT_CLKTCK, static_cast<std::uint64_t>(sysconf(_SC_CLK_TCK))},
          {AT_PHDR, c.program_headers},
          {AT_PHENT, 56},
          {AT_PHNUM, c.header_count},
          {AT_BASE, c.interpreter_base},
          {AT_FLAGS, 0},
          {AT_ENTRY, c.entry},
          {AT_UID, c.credentials->user.real},
          {AT_EUID, c.credentials->user.effective},
          {AT_GID, c.credentials->group.real},
          {AT_EGID, c.credentials->group.effective},
          {AT_SECURE, 0},
          {AT_RANDOM, random},
          {AT_HWCAP2, features.hwcap2},
          {AT_EXECFN, executable},
          {AT_PLATFORM, platform},
          {kMinSigStack, image.abi.max_frame_bytes(features.fp)},
          {AT_NULL, 0}};

  std::vector<std::uint64_t> words{arguments.size()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  words.push_back(0);
  words.insert(words.end(), environment.begin(), environment.end());
  words.push_back(0);
  for (auto [type, value] : auxv) words.insert(words.end(), {type, value});

  const std::string text = strings.bytes();
  const mm::Gva sp = mm::align_down(strings.bottom() - words.size() * sizeof(std::uint64_t), 16);
  std::vector<std::byte> bytes(image.stack_top - 8 - sp);
  std::memcpy(bytes.data(), words.data(), words.size() * sizeof(std::uint64_t));
  std::memcpy(bytes.data() + (strings.bottom() - sp), text.data(), text.size());
  if (!image.memory().write(sp, bytes))
    return failure("the program's stack does not fit into the guest's memory: raise --memory", 126);
  return sp;
}

}  // namespace ramet::vmm
