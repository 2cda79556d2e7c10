#include "vmm/linux/files_scratch.hpp"

#include <fcntl.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>

#include "vmm/linux/files_state.hpp"

namespace ramet::vmm {

const HostFd& Scratch::directory() const {
  std::call_once(made_, [this] {
    std::error_code error;
    auto parent = std::filesystem::temp_directory_path(error);
    std::string name = (error ? "/tmp" : parent.string()) + "/ramet-XXXXXX";
    if (!::mkdtemp(name.data())) return;
    path_ = name;
    root_ = HostFd(::open(name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  });
  return root_;
}

Scratch::~Scratch() {
  std::error_code error;  // what cannot be removed stays for the host's own cleaning of its /tmp
  if (!path_.empty()) std::filesystem::remove_all(path_, error);
}

void Files::add_scratch(const std::string& guest_path) {
  Mount mount{.guest = guest_path, .root = {}, .writable = true, .scratch = std::make_unique<Scratch>()};
  auto& mounts = state_->mounts;
  auto place = std::ranges::find_if(mounts, [&](const Mount& m) { return m.guest.size() > guest_path.size(); });
  mounts.insert(place, std::move(mount));
}

}  // namespace ramet::vmm
