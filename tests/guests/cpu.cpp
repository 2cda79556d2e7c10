// CPU-bound work with a small working set: cpu sha256|matrix|sort|all SECONDS-WORTH [time]
// With "time" prints nanoseconds of the work alone.
#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

namespace {

// SHA-256 (FIPS 180-4) of `blocks` blocks of zeroes with a counter, without padding.
std::uint64_t sha256(unsigned blocks) {
  static const std::array<std::uint32_t, 64> k = [] {
    std::array<std::uint32_t, 64> out{};
    unsigned found = 0;
    for (unsigned p = 2; found < 64; ++p) {  // fractions of the cube roots of the first 64 primes
      bool prime = true;
      for (unsigned d = 2; d * d <= p; ++d) prime &= p % d != 0;
      if (!prime) continue;
      long double x = 1;
      for (int i = 0; i < 100; ++i) x -= (x * x * x - p) / (3 * x * x);
      out[found++] = static_cast<std::uint32_t>((x - static_cast<long double>(static_cast<unsigned>(x))) * 4294967296.0L);
    }
    return out;
  }();
  std::array<std::uint32_t, 8> h{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint32_t, 64> w{};
  for (unsigned block = 0; block < blocks; ++block) {
    w[0] = block;
    for (unsigned i = 16; i < 64; ++i) {
      std::uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) + w[i - 7] + (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
    }
    auto s = h;
    for (unsigned i = 0; i < 64; ++i) {
      std::uint32_t t1 = s[7] + (std::rotr(s[4], 6) ^ std::rotr(s[4], 11) ^ std::rotr(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
      std::uint32_t t2 = (std::rotr(s[0], 2) ^ std::rotr(s[0], 13) ^ std::rotr(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      s = {t1 + t2, s[0], s[1], s[2], s[3] + t1, s[4], s[5], s[6]};
    }
    for (unsigned i = 0; i < 8; ++i) h[i] += s[i];
  }
  return std::uint64_t{h[0]} << 32 | h[7];
}

std::uint64_t matrix(unsigned rounds) {
  constexpr unsigned n = 96;
  std::vector<double> a(n * n), b(n * n), c(n * n);
  for (unsigned i = 0; i < n * n; ++i) a[i] = i % 7, b[i] = i % 11;
  for (unsigned r = 0; r < rounds; ++r) {
    std::fill(c.begin(), c.end(), 0);
    for (unsigned i = 0; i < n; ++i)
      for (unsigned k = 0; k < n; ++k)
        for (unsigned j = 0; j < n; ++j) c[i * n + j] += a[i * n + k] * b[k * n + j];
    for (unsigned i = 0; i < n * n; ++i) a[i] = static_cast<double>(static_cast<std::uint64_t>(c[i]) % 13);
  }
  std::uint64_t sum = 0;
  for (double v : a) sum = sum * 31 + static_cast<std::uint64_t>(v);
  return sum;
}

std::uint64_t sorting(unsigned rounds) {
  std::vector<std::uint32_t> v(50000);
  std::uint64_t state = 1, sum = 0;
  for (unsigned r = 0; r < rounds; ++r) {
    for (auto& x : v) x = static_cast<std::uint32_t>((state = state * 6364136223846793005u + 1442695040888963407u) >> 32);
    std::sort(v.begin(), v.end());
    sum = sum * 31 + v[v.size() / 2];
  }
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  std::string_view what = argv[1];
  unsigned tenths = static_cast<unsigned>(std::atof(argv[2]) * 10);
  auto before = std::chrono::steady_clock::now();
  std::uint64_t result = 0;
  if (what == "sha256" || what == "all") result ^= sha256(tenths * 350000);
  if (what == "matrix" || what == "all") result ^= matrix(tenths * 200);
  if (what == "sort" || what == "all") result ^= sorting(tenths * 27);
  auto took = std::chrono::steady_clock::now() - before;
  if (argc > 3) std::printf("%lld\n", static_cast<long long>(std::chrono::nanoseconds(took).count()));
  else std::printf("%s %016llx\n", argv[1], static_cast<unsigned long long>(result));
  return 0;
}
