// What the KVM machine says where there is no KVM for it.
#include <gtest/gtest.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "tests/vmm/need_kvm.hpp"
#include "vmm/kvm/device.hpp"
#include "vmm/kvm/kvm_machine.hpp"

namespace ramet::vmm::testing {
namespace {

std::string error_of(const std::string& device) {
  auto made = create_kvm_machine(device);
  EXPECT_FALSE(made);
  return made ? "" : made.error().message;
}

TEST(KvmDevice, AnAbsentDeviceIsNamedWithWhatToDo) {
  std::string m = error_of("/nonexistent/kvm");
  EXPECT_NE(m.find("/nonexistent/kvm does not exist"), m.npos) << m;
  EXPECT_NE(m.find(kvm::kHowToHaveKvm), m.npos) << m;
}

TEST(KvmDevice, ADeviceWithoutPermissionIsNamedWithWhatToDo) {
  char path[] = "/tmp/ramet-kvm-XXXXXX";
  int fd = mkstemp(path);
  ASSERT_GE(fd, 0);
  close(fd);
  ASSERT_EQ(chmod(path, 0), 0);
  // Root may open anything; the file-system identity of this thread alone decides here.
  int before = setfsuid(65534);
  std::string m = error_of(path);
  setfsuid(uid_t(before));
  unlink(path);
  EXPECT_NE(m.find("no permission"), m.npos) << m;
  EXPECT_NE(m.find("group kvm"), m.npos) << m;
}

TEST(KvmDevice, AnotherDeviceIsRefused) {
  std::string m = error_of("/dev/null");
  EXPECT_NE(m.find("/dev/null is not a KVM device"), m.npos) << m;
}

TEST(KvmDevice, AnotherApiVersionIsRefused) {
  EXPECT_TRUE(kvm::check_api_version("/dev/kvm", 12));
  auto refused = kvm::check_api_version("/dev/kvm", 11);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("version 11"), std::string::npos) << refused.error().message;
}

TEST(KvmDevice, AMachineWithoutAddressSpaceGivesNoVcpu) {
  NEED_KVM();
  auto made = create_kvm_machine();
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_FALSE((*made)->acquire_vcpu());
}

}  // namespace
}  // namespace ramet::vmm::testing
