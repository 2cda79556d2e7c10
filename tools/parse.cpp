#include "tools/parse.hpp"

#include <array>
#include <charconv>
#include <utility>

namespace ramet::tools {
namespace {

// The number text starts with, and the rest behind it.
template <class T>
std::optional<std::pair<T, std::string_view>> leading_number(std::string_view text) {
  T value{};
  auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) return std::nullopt;
  return std::pair{value, std::string_view(rest, text.data() + text.size())};
}

}  // namespace

std::optional<std::uint64_t> parse_size(std::string_view text) {
  auto number = leading_number<std::uint64_t>(text);
  if (!number) return std::nullopt;
  auto [value, unit] = *number;
  if (unit.empty()) return value;
  constexpr std::string_view kUnits = "KMGT";
  std::size_t power = kUnits.find(unit[0] >= 'a' && unit[0] <= 'z' ? static_cast<char>(unit[0] - 'a' + 'A') : unit[0]);
  unit.remove_prefix(1);
  if (power == kUnits.npos || !(unit.empty() || unit == "B" || unit == "iB")) return std::nullopt;
  unsigned shift = 10 * (static_cast<unsigned>(power) + 1);
  if (value > (~0ull >> shift)) return std::nullopt;
  return value << shift;
}

std::optional<std::chrono::nanoseconds> parse_duration(std::string_view text) {
  auto number = leading_number<double>(text);
  if (!number) return std::nullopt;
  auto [value, unit] = *number;
  constexpr std::array<std::pair<std::string_view, double>, 5> kUnits{
      {{"", 1}, {"s", 1}, {"ms", 1e-3}, {"m", 60}, {"h", 3600}}};
  for (auto [name, seconds] : kUnits) {
    if (unit != name) continue;
    double total = value * seconds;
    if (!(total >= 0) || total > 10 * 365.25 * 86400) return std::nullopt;
    return std::chrono::nanoseconds(static_cast<std::int64_t>(total * 1e9));
  }
  return std::nullopt;
}

}  // namespace ramet::tools
