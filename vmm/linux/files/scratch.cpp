#include "vmm/linux/files/scratch.hpp"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "vmm/linux/files/state.hpp"

namespace ramet::vmm {

const HostFd& ScratchDirectory::directory() const {
  std::call_once(made_, [this] {
    std::error_code error;
    auto parent = std::filesystem::temp_directory_path(error);
    std::string name = (error ? "/tmp" : parent.string()) + "/ramet-XXXXXX";
    if (!::mkdtemp(name.data())) return;
    path_ = name;
    // All user ids of the guest may write to it, as to /tmp; other users of the host cannot pass its parent directory.
    if (::mkdir(inner().c_str(), 0700) != 0 || ::chmod(inner().c_str(), 01777) != 0) return;
    root_ = HostFd(::open(inner().c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    struct stat st;
    if (root_ && ::fstat(root_.get(), &st) == 0) device_ = st.st_dev;
  });
  return root_;
}

dev_t ScratchDirectory::device() const {
  directory();
  return device_;
}

bool ScratchDirectory::used() const {
  std::error_code error;
  return !path_.empty() && !std::filesystem::is_empty(inner(), error);
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code error;  // what cannot be removed stays for the host's own cleaning of its /tmp
  if (!path_.empty()) std::filesystem::remove_all(path_, error);
}

void Files::add_scratch() {
  auto& mounts = state_->mounts;
  auto add = [&](const char* path) {
    Mount mount{.guest = path, .root = {}, .writable = true, .scratch = std::make_unique<ScratchDirectory>()};
    auto place = std::ranges::find_if(mounts, [&](const Mount& m) { return m.guest.size() > mount.guest.size(); });
    mounts.insert(place, std::move(mount));
  };
  if (state_->covering_mount("/tmp") < 0) add("/tmp");
  const int above = state_->covering_mount("/var/tmp");
  const bool only_root = above >= 0 && mounts[static_cast<std::size_t>(above)].guest == "/";
  if (above < 0 || (only_root && !mounts[static_cast<std::size_t>(above)].writable)) add("/var/tmp");
  if (state_->covering_mount("/dev/shm") < 0) add("/dev/shm");
}

}  // namespace ramet::vmm
