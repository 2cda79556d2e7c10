#include "vmm/kvm/device.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <cstring>

namespace ramet::vmm::kvm {
namespace {

std::string why_not_opened(const std::string& path, int error) {
  switch (error) {
    case ENOENT: return fmt::format("{} does not exist: {}", path, kHowToHaveKvm);
    case EACCES:
    case EPERM:
      return fmt::format(
          "no permission to open {}: add yourself to the group kvm (usermod -aG kvm $USER) and log "
          "in again",
          path);
    case ENODEV:
    case ENXIO: return fmt::format("{} exists but no driver answers: {}", path, kHowToHaveKvm);
    default: return fmt::format("cannot open {}: {}", path, std::strerror(error));
  }
}

}  // namespace

Status check_api_version(const std::string& path, int version_or_error) {
  if (version_or_error < 0)
    return failure(fmt::format("{} is not a KVM device: {}", path, std::strerror(-version_or_error)));
  if (version_or_error != KVM_API_VERSION)
    return failure(fmt::format("{} speaks KVM API version {}, and version {} is needed: use another kernel", path,
                               version_or_error, KVM_API_VERSION));
  return {};
}

std::expected<Device, Failure> Device::open(const std::string& path) {
  Device d;
  d.fd = HostFd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!d.fd) return failure(why_not_opened(path, errno));
  if (auto ok = check_api_version(path, call(d.fd, KVM_GET_API_VERSION)); !ok) return std::unexpected(ok.error());
  if (d.capability(KVM_CAP_IMMEDIATE_EXIT) == 0)
    return failure(fmt::format("{} is too old: it lacks immediate exit; Linux 4.13 has it", path));
  int size = call(d.fd, KVM_GET_VCPU_MMAP_SIZE);
  if (size < 0) return failure(fmt::format("{}: KVM_GET_VCPU_MMAP_SIZE: {}", path, std::strerror(-size)));
  d.run_size = std::size_t(size);
  return d;
}

int Device::capability(int which) const {
  int r = call(fd, KVM_CHECK_EXTENSION, which);
  return r < 0 ? 0 : r;
}

}  // namespace ramet::vmm::kvm
