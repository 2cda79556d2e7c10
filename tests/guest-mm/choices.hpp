// Where a randomised test takes its decisions from: a generator with a seed, or the bytes that a fuzzer made up.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <span>

namespace ramet::mm::test {

class Choices {
 public:
  virtual ~Choices() = default;
  // Begins the decisions of another step; false: there are no more.
  virtual bool another() = 0;
  // A decision with n outcomes, n at most 65536.
  virtual unsigned below(unsigned n) = 0;
  // A value on which nothing depends.
  virtual std::uint64_t value() = 0;
  bool one_in(unsigned n) { return below(n) == 0; }
};

class RandomChoices : public Choices {
 public:
  RandomChoices(unsigned seed, unsigned steps) : rng_(seed), left_(steps) {}
  bool another() override { return left_-- > 0; }
  unsigned below(unsigned n) override { return static_cast<unsigned>(rng_() % n); }
  std::uint64_t value() override { return rng_(); }

 private:
  std::mt19937_64 rng_;
  int left_;
};

// Each step has a record of its own, so that changing, removing or inserting one leaves the other steps as they were.
// When a record is used up, a generator goes on whose seed is the record.
class ByteChoices : public Choices {
 public:
  static constexpr std::size_t kRecord = 8;
  explicit ByteChoices(std::span<const std::uint8_t> bytes) : bytes_(bytes) { (void)another(); }
  bool another() override {
    std::uint64_t seed = 0;
    const std::size_t n = std::min(kRecord, bytes_.size());
    std::memcpy(record_, bytes_.data(), n);
    std::memset(record_ + n, 0, kRecord - n);
    for (std::uint8_t byte : record_) seed = seed * 0x100000001b3 ^ byte;
    bytes_ = bytes_.subspan(n);
    at_ = 0;
    rng_.seed(static_cast<unsigned>(seed ^ seed >> 32));
    return n > 0;
  }
  unsigned below(unsigned n) override {
    if (n <= 1) return 0;
    unsigned value = next();
    if (n > 256) value = value << 8 | next();
    return value % n;
  }
  std::uint64_t value() override { return ++values_ * 0x9e3779b97f4a7c15; }

 private:
  unsigned next() { return at_ < kRecord ? record_[at_++] : static_cast<unsigned>(rng_() >> 8 & 0xff); }
  std::span<const std::uint8_t> bytes_;
  std::uint8_t record_[kRecord] = {};
  std::size_t at_ = 0;
  std::uint64_t values_ = 0;  // each another one
  std::minstd_rand rng_;
};

}  // namespace ramet::mm::test
