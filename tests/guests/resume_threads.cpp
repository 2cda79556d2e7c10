// Threads that wait in every way, and one that computes, when the program is saved: all of them go on.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <iostream>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {

std::mutex lock;
std::condition_variable changed;
int turn = 0;
bool stop = false;
std::atomic<bool> computing{true};
std::atomic<unsigned> waiting{0};
thread_local int mine = 0;

// Each waits for its turn, and gives it to the next.
void relay(int number, int of, int rounds) {
  mine = number;
  for (int i = 0; i < rounds; ++i) {
    std::unique_lock guard(lock);
    changed.wait(guard, [&] { return turn % of == number; });
    ++turn;
    changed.notify_all();
  }
  CHECK(mine == number);
}

// In registers all the time: the sum of 1/i*i.
double compute() {
  double sum = 0;
  for (unsigned long i = 1; computing.load(std::memory_order_relaxed) || i <= 1000000; ++i)
    sum += i <= 1000000 ? 1.0 / (double(i) * double(i)) : 0;
  return sum;
}

void sleep_long() {
  ++waiting;
  std::unique_lock guard(lock);
  changed.wait_for(guard, std::chrono::hours(1), [] { return stop; });
  CHECK(stop);
}

void wait_signal() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  ++waiting;
  int sig = 0;
  CHECK(sigwait(&set, &sig) == 0 && sig == SIGUSR1);
}

void poll_nothing() {
  ++waiting;
  for (;;) {
    CHECK(poll(nullptr, 0, 20) == 0);
    std::lock_guard guard(lock);
    if (stop) return;
  }
}

sem_t semaphore;
void wait_semaphore() {
  CHECK(prctl(PR_SET_NAME, "semaphore") == 0);
  ++waiting;
  while (sem_wait(&semaphore) != 0) CHECK(errno == EINTR);
  char name[16];
  CHECK(prctl(PR_GET_NAME, name) == 0 && strcmp(name, "semaphore") == 0);
}

}  // namespace

int main() {
  constexpr int kRelay = 3, kRounds = 50;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  CHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  CHECK(sem_init(&semaphore, 0, 0) == 0);
  double sum = 0;
  std::vector<std::thread> threads;
  turn = 1;  // nobody's until the input comes: number 0 waits for it
  std::thread runner([&] { sum = compute(); });
  for (int i = 1; i < kRelay; ++i) threads.emplace_back(relay, i, kRelay, kRounds);
  threads.emplace_back(sleep_long);
  threads.emplace_back(wait_signal);
  threads.emplace_back(poll_nothing);
  threads.emplace_back(wait_semaphore);
  while (waiting < 4) std::this_thread::yield();
  std::recursive_mutex nested;
  nested.lock();
  std::cout << "before" << std::endl;
  std::string line;
  while (std::getline(std::cin, line)) std::cout << "line: " << line << "\n";

  CHECK(nested.try_lock());
  nested.unlock(), nested.unlock();
  relay(0, kRelay, kRounds);
  computing = false;
  runner.join();
  CHECK(sum > 1.6449330 && sum < 1.6449341);
  CHECK(kill(getpid(), SIGUSR1) == 0);
  CHECK(sem_post(&semaphore) == 0);
  {
    std::lock_guard guard(lock);
    stop = true;
    changed.notify_all();
  }
  for (auto& t : threads) t.join();
  try {
    throw std::runtime_error("thrown and caught");
  } catch (const std::exception& e) {
    std::cout << e.what() << "\n";
  }
  std::cout << "turn " << turn << std::endl;
}
