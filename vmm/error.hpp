// How vmm reports what went wrong: one clear sentence for people, and the status `ramet` ends with.
#pragma once

#include <expected>
#include <string>

namespace ramet::vmm {

struct Failure {
  // Says what is wrong and what to do about it; no trailing full stop, no newline.
  std::string message;
  // Exit status of the program: 125 ramet could not do its work, 126 found but cannot be executed,
  // 127 not found (see the command line's documentation).
  int status = 125;
  // The errno of the guest's system call that failed for this (execve(2), fork(2)). 0: EIO for execve(2), ENOMEM for
  // others.
  int error = 0;
};

using Status = std::expected<void, Failure>;
inline std::unexpected<Failure> failure(std::string message, int status = 125, int error = 0) {
  return std::unexpected<Failure>(Failure{std::move(message), status, error});
}

}  // namespace ramet::vmm
