// Sizes and durations of the command line.
#include "tools/parse.hpp"

#include <gtest/gtest.h>

namespace ramet::tools {
namespace {

using namespace std::chrono_literals;

TEST(ParseSize, TakesPlainBytesAndPowersOf1024) {
  EXPECT_EQ(parse_size("4096"), 4096u);
  EXPECT_EQ(parse_size("8K"), 8192u);
  EXPECT_EQ(parse_size("512M"), 512ull << 20);
  EXPECT_EQ(parse_size("2g"), 2ull << 30);
  EXPECT_EQ(parse_size("1TiB"), 1ull << 40);
  EXPECT_EQ(parse_size("3MB"), 3ull << 20);
}

TEST(ParseSize, RefusesWhatIsNoSize) {
  for (const char* text :
       {"", "M", "-1", "12X", "12MM", "1.5G", "0x10", "12 M", "99999999999999999999", "17179869184G"})
    EXPECT_FALSE(parse_size(text)) << text;
}

TEST(ParseDuration, TakesUnitsAndFractions) {
  EXPECT_EQ(parse_duration("10"), 10s);
  EXPECT_EQ(parse_duration("10s"), 10s);
  EXPECT_EQ(parse_duration("250ms"), 250ms);
  EXPECT_EQ(parse_duration("1.5m"), 90s);
  EXPECT_EQ(parse_duration("2h"), 2h);
}

TEST(ParseDuration, RefusesWhatIsNoTime) {
  for (const char* text : {"", "s", "-1s", "10us", "nan", "inf", "1e300", "10 s", "1s2"})
    EXPECT_FALSE(parse_duration(text)) << text;
}

}  // namespace
}  // namespace ramet::tools
