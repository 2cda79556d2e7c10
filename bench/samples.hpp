// Figures of things measured in turn, so that other load of the machine affects all of them alike.
#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

namespace ramet::bench {

template <class Work>
double nanoseconds(Work&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
}

struct Samples {
  std::vector<double> values;
  void add(double v) { values.push_back(v); }
  double median() const {
    std::vector<double> sorted = values;
    std::ranges::sort(sorted);
    return sorted.empty() ? 0 : sorted[sorted.size() / 2];
  }
  double least() const { return values.empty() ? 0 : *std::ranges::min_element(values); }
};

// The median of the pairs' ratios.
inline double ratio(const Samples& a, const Samples& b) {
  Samples r;
  for (std::size_t i = 0; i < a.values.size(); ++i) r.add(a.values[i] / b.values[i]);
  return r.median();
}

}  // namespace ramet::bench
