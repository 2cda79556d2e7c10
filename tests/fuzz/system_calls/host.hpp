// What a guest may not change of its host, looked at before and after it.
#pragma once

#include <signal.h>
#include <sys/resource.h>
#include <sys/types.h>

#include <array>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace ramet::fuzz {

// The process of the VMM.
struct Host {
  std::set<std::string> descriptors, threads;
  std::string directory;
  mode_t mask = 0;
  sigset_t blocked{};
  std::array<rlimit, RLIM_NLIMITS> limits{};

  static Host now();
  void compare(const Host& before) const;   // what differs is a finding
};

// A directory in memory, which one input after the other uses: folders that the guest is given, and beside them files
// that it must not change.
//
//   root/  canary   w/ shared to be written   r/ shared to be read   tmp/ for what the VMM makes there
class Directory {
 public:
  Directory();
  ~Directory();
  void fill(std::uint8_t damage) const;     // w/; in one of its programs one byte is damaged
  void check() const;                       // the guest has gone: w/ goes, and all else is as it was
  const std::string& root() const { return root_; }

 private:
  struct FileState {
    ino_t inode;
    mode_t mode;
    nlink_t links;
    uid_t owner;
    off_t size;
    std::int64_t modified, changed;         // nanoseconds
    static FileState of(const std::string& path);
    bool operator==(const FileState&) const = default;
  };
  std::string root_;
  std::vector<FileState> before_;
};

}  // namespace ramet::fuzz
