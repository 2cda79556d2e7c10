// Sizes ("512M", "2G", "4096") and durations ("10s", "250ms", "1.5") as the command line takes them.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>

namespace ramet::tools {

// Bytes; suffixes K, M, G, T are powers of 1024, upper or lower case, with or without "B"/"iB".
// Nothing for anything else, and for values that 64 bits do not hold.
std::optional<std::uint64_t> parse_size(std::string_view text);

// Suffixes ms, s, m, h; without one, seconds. Decimal fractions allowed. At most ten years.
std::optional<std::chrono::nanoseconds> parse_duration(std::string_view text);

}  // namespace ramet::tools
