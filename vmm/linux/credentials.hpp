// User, groups and capabilities of a guest's thread, as credentials(7) and capabilities(7) define them. They decide
// what the thread may do within the guest, in addition to what the host allows the VMM, never instead of it. No host
// thread ever takes a guest's ids.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <vector>

namespace ramet::vmm {

using Capabilities = std::uint64_t;  // bit n: capability n

constexpr Capabilities capability(unsigned number) { return Capabilities{1} << number; }
inline constexpr unsigned kLastCapability = 40;  // CAP_CHECKPOINT_RESTORE, of Linux 6.1
inline constexpr Capabilities kAllCapabilities = capability(kLastCapability + 1) - 1;

struct Credentials {
  // `file` is the file-system id (fsuid, fsgid).
  struct Ids {
    unsigned real = 0, effective = 0, saved = 0, file = 0;
    bool operator==(const Ids&) const = default;
    bool any(unsigned id) const { return id == real || id == effective || id == saved; }
  };
  static constexpr std::size_t kMostGroups = 1024;  // they are charged to the thread; Linux has 65536
  Ids user, group;
  std::vector<gid_t> groups;  // sorted
  Capabilities inheritable = 0, permitted = 0, effective = 0, bounding = 0, ambient = 0;
  unsigned securebits = 0;
  bool operator==(const Credentials&) const = default;

  // What a program starts with: the user and group of the VMM, and as root the capabilities that have an effect here.
  // Always the same object: for a thread that has it the host's checks of the VMM are enough.
  static const std::shared_ptr<const Credentials>& of_vmm();
  bool may(unsigned number) const { return effective & capability(number); }
  bool in_group(gid_t) const;  // group.file, or one of `groups`
  // With the real ids as file-system ids, as access(2) checks.
  Credentials by_real_ids() const;
  // As execve(2) leaves them. No file gives ids or capabilities, as on a file system mounted nosuid.
  Credentials executed() const;
};

// The credentials after setuid(2), setreuid(2), setresuid(2) and so on. An id of -1 stays as it is. Errors: EPERM,
// EINVAL.
using Changed = std::expected<Credentials, int>;
Changed set_user(const Credentials&, unsigned id);
Changed set_users(const Credentials&, unsigned real, unsigned effective);
Changed set_users(const Credentials&, unsigned real, unsigned effective, unsigned saved);
Credentials set_file_user(const Credentials&, unsigned id);  // unchanged if it is not permitted
Changed set_group(const Credentials&, unsigned id);
Changed set_groups(const Credentials&, unsigned real, unsigned effective);
Changed set_groups(const Credentials&, unsigned real, unsigned effective, unsigned saved);
Credentials set_file_group(const Credentials&, unsigned id);
Changed set_supplementary(const Credentials&, std::vector<gid_t>);
Changed set_capabilities(const Credentials&, Capabilities effective, Capabilities permitted, Capabilities inheritable);
Changed drop_bounding(const Credentials&, std::uint64_t number);
Changed set_securebits(const Credentials&, std::uint64_t bits);
Changed set_keep_capabilities(const Credentials&, std::uint64_t keep);
Changed raise_ambient(const Credentials&, std::uint64_t number);
Changed lower_ambient(const Credentials&, std::uint64_t number);

// Whether the first may send signals to the second, change its priority, change its limits.
bool may_signal(const Credentials&, const Credentials& target);
bool may_schedule(const Credentials&, const Credentials& target);
bool may_limit(const Credentials&, const Credentials& target);

// Whether they allow `wanted` (4: read, 2: write, 1: search or execute) for a file of that owner, group and mode.
// Access control lists are not checked here: the host checks them for the VMM.
bool may_access(const Credentials&, uid_t owner, gid_t group, mode_t mode, unsigned wanted);
// Whether they are the owner's, or have CAP_FOWNER.
bool owns(const Credentials&, uid_t owner);

}  // namespace ramet::vmm
