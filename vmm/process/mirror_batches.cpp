// What the mirror has the process's mapper do: files that it is given, and changes that it makes in batches, one after
// another.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>

#include "vmm/process/mirror.hpp"

namespace ramet::vmm::process {

std::expected<void, int> Mirror::give(std::span<const Wanted> wanted) {
  LockGuard one_at_a_time(giving_);
  std::vector<Wanted> lacking;
  std::vector<int> unused, descriptors;
  {
    LockGuard guard(lock_);
    std::ranges::copy_if(wanted, std::back_inserter(lacking),
                         [&](const Wanted& w) RAMET_REQUIRES(lock_) { return !files_.contains(w.key()); });
    if (lacking.empty()) return {};
    for (auto at = files_.begin(); at != files_.end();) {
      if (at->second.file.expired()) {
        unused.push_back(at->second.number);
        at = files_.erase(at);
      } else {
        ++at;
      }
    }
  }
  for (const int number : unused)
    if (auto done = mapper_.take_back(number); !done) return done;
  for (const Wanted& w : lacking) {
    const auto other = w.writable ? w.file->descriptor() : w.file->read_only();
    if (!other) return std::unexpected(EMFILE);
    descriptors.push_back(*other);
  }
  auto numbers = mapper_.give(descriptors);
  if (!numbers && numbers.error() == EMFILE) {
    // Mappings outlive their descriptors, which are given again when something is mapped by them.
    if (auto done = take_all_back(false); !done) return done;
    numbers = mapper_.give(descriptors);
  }
  if (!numbers) return std::unexpected(numbers.error());
  LockGuard guard(lock_);
  for (std::size_t i = 0; i < lacking.size(); ++i)
    files_.emplace(lacking[i].key(), Given{lacking[i].file, (*numbers)[i]});
  return {};
}

std::uint64_t Mirror::start_batch_locked(std::vector<Change> changes, bool strict) {
  batches_.push_back({last_batch_ + 1, std::move(changes), strict});
  return ++last_batch_;
}

std::expected<bool, int> Mirror::make_batch(std::uint64_t number, const std::vector<Underway>& underway,
                                            bool without_files) {
  UniqueLock guard(lock_);
  batch_done_.wait(guard.standard(), [&]() RAMET_REQUIRES(lock_) { return batches_.front().number == number; });
  std::vector<Command> commands;
  for (const Change& c : batches_.front().changes) commands.push_back(command(c));
  guard.unlock();
  const struct Turn {
    Mirror& mirror;
    ~Turn() {
      LockGuard last(mirror.lock_);
      mirror.batches_.pop_front();
      mirror.batch_done_.notify_all();
    }
  } turn{*this};
  wait_for(underway);
  const auto done = without_files ? mapper_.take_all_back(commands) : mapper_.carry_out(commands);
  if (done) return true;
  if (done.error() == ESRCH) return std::unexpected(ESRCH);
  // The process has so many mappings that none can be cut in two; all can be unmapped.
  guard.lock();
  gains_.clear();
  forget_locked(kAll);
  guard.unlock();
  const Command all = command({kAll, {}});
  if (const auto unmapped = mapper_.carry_out({&all, 1}); !unmapped) return std::unexpected(unmapped.error());
  return false;
}

void Mirror::wait_for_batches(std::uint64_t number) {
  UniqueLock guard(lock_);
  batch_done_.wait(guard.standard(),
                   [&]() RAMET_REQUIRES(lock_) { return batches_.empty() || batches_.front().number > number; });
}

std::expected<void, int> Mirror::take_all_back(bool mappings) {
  std::vector<Underway> underway;
  std::uint64_t earlier;
  {
    LockGuard guard(lock_);
    files_.clear();
    // Changes that map by a number must not be made once it is another file's.
    gains_.clear();
    for (Change& c : pending_) c.to.reset();
    underway = underway_locked({&kAll, 1});
    earlier = last_batch_;
  }
  wait_for(underway);
  wait_for_batches(earlier);
  if (!mappings) return mapper_.take_all_back({});
  std::uint64_t batch;
  {
    LockGuard guard(lock_);
    gains_.clear();
    forget_locked(kAll);
    pending_.clear();
    expected_ = touched_;
    batch = start_batch_locked({{kAll, {}}});
  }
  if (const auto made = make_batch(batch, {}, true); !made) return std::unexpected(made.error());
  return {};
}

void Mirror::close_writable() {
  LockGuard one_at_a_time(giving_);  // what is given meanwhile would be closed, and still be noted
  {
    LockGuard guard(lock_);
    const bool any = std::ranges::any_of(files_, [](const auto& given) {
      const auto file = given.second.file.lock();
      return given.first.second && file && file->closed();
    });
    if (!any) return;
  }
  (void)take_all_back(true);  // if it fails, the process has ended
}

}  // namespace ramet::vmm::process
