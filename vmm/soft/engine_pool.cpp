#include "vmm/soft/engine_pool.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <utility>

#include "arch/guarded_word.hpp"

namespace ramet::vmm::soft {
namespace {

// Each takes 4 MiB and up; a shell script needs two or three at a time, and is faster with one for each of its
// programs.
constexpr std::size_t kMostIdle = 4, kMostInUse = 256;

std::atomic<MakeEngine> make_engine{nullptr};  // pairs with nothing: it is set before the first machine is made

const GuardedWords& guarded_words() {
  using namespace arch;
  static constexpr GuardedWords words{.copy = ramet_guarded_copy,
                                      .load = {ramet_guarded_load_8, ramet_guarded_load_16, ramet_guarded_load_32,
                                               ramet_guarded_load_64},
                                      .store = {ramet_guarded_store_8, ramet_guarded_store_16, ramet_guarded_store_32,
                                                ramet_guarded_store_64},
                                      .exchange = {ramet_guarded_exchange_8, ramet_guarded_exchange_16,
                                                   ramet_guarded_exchange_32, ramet_guarded_exchange_64},
                                      .load_pair = ramet_guarded_load_128,
                                      .store_pair = ramet_guarded_store_128,
                                      .exchange_pair = ramet_guarded_exchange_128};
  return words;
}

}  // namespace

void use_engines(MakeEngine make) { make_engine.store(make); }
bool engines_provided() { return make_engine.load() != nullptr; }

std::expected<std::unique_ptr<Engine>, Failure> EnginePool::make() {
  arch::install_guard();
  std::unique_ptr<Engine> engine(make_engine.load()(guarded_words()));
  arch::install_guard_on_top();  // the first engine has installed handlers, which print messages
  if (!engine) return failure("the host has no memory for another software CPU");
  return engine;
}

std::unique_ptr<Engine> EnginePool::take_idle_locked(Program program) {
  auto at = std::ranges::find(idle_, program, &Idle::program);
  if (at == idle_.end()) at = std::ranges::find(idle_, kNone, &Idle::program);
  if (at == idle_.end() && idle_.size() == kMostIdle) at = idle_.begin();
  if (at == idle_.end()) return nullptr;
  auto engine = std::move(at->engine);
  idle_.erase(at);
  return engine;
}

std::expected<std::unique_ptr<Engine>, Failure> EnginePool::take(Program program) {
  {
    LockGuard guard(lock_);
    if (in_use_ == kMostInUse)
      return failure(fmt::format("a family of guests has at most {} software CPUs", kMostInUse), 125, EAGAIN);
    ++in_use_;
    if (auto engine = take_idle_locked(program)) return engine;
  }
  auto engine = make();
  if (!engine) {
    LockGuard guard(lock_);
    --in_use_;
  }
  return engine;
}

void EnginePool::give(std::unique_ptr<Engine> engine, Program program) {
  engine->unbind();
  LockGuard guard(lock_);
  --in_use_;
  if (idle_.size() == kMostIdle) idle_.erase(idle_.begin());
  idle_.push_back({std::move(engine), program});
}

Status EnginePool::prepare() {
  const auto enough = [this]() RAMET_REQUIRES(lock_) {
    return idle_.size() == kMostIdle || std::ranges::find(idle_, kNone, &Idle::program) != idle_.end();
  };
  {
    LockGuard guard(lock_);
    if (enough()) return {};
  }
  auto engine = make();
  if (!engine) return std::unexpected(engine.error());
  LockGuard guard(lock_);
  if (!enough()) idle_.insert(idle_.begin(), {std::move(*engine), kNone});
  return {};
}

}  // namespace ramet::vmm::soft
