// C++ at run time: exceptions through frames and threads, iostreams, std::thread and its friends.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <future>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Unwound {
  int& count;
  ~Unwound() { ++count; }
};

int deep(int depth, int& unwound) {
  Unwound guard{unwound};
  if (depth == 0) throw std::out_of_range("the bottom");
  return deep(depth - 1, unwound) + 1;
}

void exceptions() {
  int unwound = 0;
  try {
    deep(100, unwound);
  } catch (const std::exception& e) {
    std::cout << "caught " << e.what() << " after " << unwound << " frames\n";
  }
  try {
    try {
      throw 42;
    } catch (int n) {
      std::throw_with_nested(std::runtime_error("outer " + std::to_string(n)));
    }
  } catch (const std::runtime_error& e) {
    std::cout << e.what() << "\n";
  }
  auto failing = std::async(std::launch::async, []() -> int { throw std::logic_error("from a thread"); });
  try {
    failing.get();
  } catch (const std::logic_error& e) {
    std::cout << "caught " << e.what() << "\n";
  }
}

void streams() {
  std::ostringstream out;
  out << std::hex << std::showbase << 48879 << ' ' << std::dec << std::setprecision(12) << 3.14159265358979 << ' '
      << std::setw(8) << std::setfill('*') << 7 << ' ' << std::boolalpha << true;
  std::cout << out.str() << "\n";
  std::istringstream in("12 words 0.5");
  int n;
  std::string word;
  double half;
  in >> n >> word >> half;
  std::cout << n << word << half * 4 << std::endl;
}

void threads() {
  constexpr int kThreads = 8, kRounds = 20000;
  std::atomic<long> atomic_sum{0};
  long plain_sum = 0;
  std::mutex lock;
  std::vector<std::thread> all;
  thread_local int own = 0;
  for (int t = 0; t < kThreads; ++t)
    all.emplace_back([&, t] {
      for (int i = 0; i < kRounds; ++i) {
        atomic_sum.fetch_add(t, std::memory_order_relaxed);
        ++own;
        if (i % 16 == 0) {
          std::lock_guard held(lock);
          ++plain_sum;
        }
      }
      if (own != kRounds) std::abort();
    });
  for (auto& thread : all) thread.join();
  std::cout << atomic_sum << " " << plain_sum << " " << own << "\n";

  // A queue between two threads, every item through a condition variable.
  std::condition_variable changed;
  std::vector<int> queue;
  bool done = false;
  long taken = 0;
  std::thread consumer([&] {
    std::unique_lock held(lock);
    for (;;) {
      changed.wait(held, [&] { return !queue.empty() || done; });
      if (queue.empty()) return;
      taken += queue.back();
      queue.pop_back();
    }
  });
  for (int i = 1; i <= 1000; ++i) {
    {
      std::lock_guard held(lock);
      queue.push_back(i);
    }
    changed.notify_one();
  }
  {
    std::lock_guard held(lock);
    done = true;
  }
  changed.notify_one();
  consumer.join();
  std::cout << "queue " << taken << "\n";
}

void heap() {
  std::map<std::string, std::unique_ptr<std::vector<int>>> tree;
  for (int i = 0; i < 2000; ++i) {
    auto& slot = tree[std::to_string(i * 7919 % 2003)];
    slot = std::make_unique<std::vector<int>>(static_cast<std::size_t>(i % 500 + 1), i);
  }
  long sum = 0;
  for (auto& [key, value] : tree) sum += std::accumulate(value->begin(), value->end(), 0l);
  std::cout << tree.size() << " " << sum << "\n";
  try {
    std::vector<char> huge(std::size_t{1} << 46);
    std::cout << "not reached\n";
  } catch (const std::bad_alloc&) {
    std::cout << "bad_alloc for 64 TiB\n";
  }
}

}  // namespace

int main() {
  exceptions();
  streams();
  threads();
  heap();
}
