#include "vmm/bpf/print.hpp"

#include <cerrno>
#include <cstdio>
#include <string_view>

namespace ramet::vmm::bpf {
namespace {

// One conversion. `spec`: "%" with flags and width, to which the host's length and conversion are added.
std::string convert(mm::AddressSpace& space, std::string spec, char kind, unsigned longs, std::uint64_t value) {
  char text[128];
  if (kind == 's') {
    const auto string = space.read_string(value, kMostPrinted);
    return string ? *string : "(null)";
  }
  if (kind == 'c') return {static_cast<char>(value)};
  if (kind == 'p') {
    spec += "#llx";
  } else if (kind == 'd' || kind == 'i') {
    if (longs == 0) value = static_cast<std::uint64_t>(static_cast<std::int32_t>(value));
    spec += "lld";
  } else {
    if (longs == 0) value = static_cast<std::uint32_t>(value);
    spec += std::string("ll") + kind;
  }
  const int length = std::snprintf(text, sizeof text, spec.c_str(), static_cast<unsigned long long>(value));
  return {text, length < 0 ? 0 : std::min<std::size_t>(static_cast<std::size_t>(length), sizeof text - 1)};
}

}  // namespace

std::expected<std::string, int> print(mm::AddressSpace& space, mm::Gva at, std::uint64_t bytes,
                                      std::span<const std::uint64_t> arguments) {
  if (bytes == 0 || bytes > kMostPrinted) return std::unexpected(EINVAL);
  std::string format(bytes, 0);
  if (!space.read(at, std::as_writable_bytes(std::span(format)))) return std::unexpected(EFAULT);
  format.resize(format.find('\0') == format.npos ? format.size() : format.find('\0'));
  std::string line;
  std::size_t next = 0;
  for (std::size_t i = 0; i < format.size() && line.size() < kMostPrinted; ++i) {
    if (format[i] != '%') {
      line += format[i];
      continue;
    }
    const std::size_t flags = std::min(format.find_first_not_of("-+ #0", i + 1), format.size());
    std::size_t width = std::min(format.find_first_not_of("0123456789", flags), format.size());
    if (width - flags > 2) width = flags;  // no more than 99 columns
    const std::size_t length = std::min(format.find_first_not_of("lhz", width), format.size());
    if (length == format.size() || std::string_view("dixXuocsp").find(format[length]) == std::string_view::npos ||
        next == arguments.size()) {
      if (i + 1 < format.size() && format[i + 1] == '%') ++i;
      line += '%';
      continue;
    }
    unsigned longs = 0;
    for (std::size_t k = width; k < length; ++k) longs += format[k] != 'h';
    line += convert(space, format.substr(i, width - i), format[length], longs, arguments[next++]);
    i = length;
  }
  if (line.size() > kMostPrinted) line.resize(kMostPrinted);
  while (line.ends_with('\n')) line.pop_back();
  return line;
}

}  // namespace ramet::vmm::bpf
