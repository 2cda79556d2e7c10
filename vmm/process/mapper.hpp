// What a Mirror needs of the process that it maps for: Child is one, tests have another.
#pragma once

#include <array>
#include <expected>
#include <span>

#include "vmm/process/context.hpp"

namespace ramet::vmm::process {

class Mapper {
 public:
  virtual ~Mapper() = default;

  // Whether the process's other threads may map as well, by their own lists. Else the mapper makes all changes.
  virtual bool threads_map() const = 0;

  // Each request is done when the function returns; one at a time. Has the mapper make these calls. Errors: a call's
  // errno; ESRCH: the process has ended, or does not answer and was killed.
  virtual std::expected<void, int> carry_out(std::span<const Command>) = 0;
  // Gives the process descriptors, at most kMostGiven; their numbers there. Errors as above, and EMFILE: it has as many
  // as it can, and none of these.
  static constexpr std::size_t kMostGiven = 4;
  virtual std::expected<std::array<int, kMostGiven>, int> give(std::span<const int> descriptors) = 0;
  virtual std::expected<void, int> take_back(int number) = 0;
  // Closes all descriptors that it has, known or not; then the mapper makes these calls. Errors as above.
  virtual std::expected<void, int> take_all_back(std::span<const Command> then) = 0;

  // Called about ten times a second while a thread of the process is waited for; `silent`: how often it was without an
  // answer, 0 at first. False: the process has ended, or was killed for not answering.
  virtual bool patient(unsigned& silent) = 0;
};

}  // namespace ramet::vmm::process
