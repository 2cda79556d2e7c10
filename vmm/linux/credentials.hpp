// Who a guest's thread is: user, groups and capabilities, as credentials(7) and capabilities(7) have them. They are the
// guest's own business: they decide what it may do inside, and are looked at besides what the host lets the VMM do,
// never instead. No id of a guest's is given to the host as that of a thread of the VMM's.
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
  // Real, effective, saved, and that of file access.
  struct Ids {
    unsigned real = 0, effective = 0, saved = 0, file = 0;
    bool operator==(const Ids&) const = default;
    bool any(unsigned id) const { return id == real || id == effective || id == saved; }
  };
  static constexpr std::size_t kMostGroups = 1024;  // a thread's charge pays for them; Linux has 65536
  Ids user, group;
  std::vector<gid_t> groups;  // sorted
  Capabilities inheritable = 0, permitted = 0, effective = 0, bounding = 0, ambient = 0;
  unsigned securebits = 0;
  bool operator==(const Credentials&) const = default;

  // What a program starts with: the user and group of the VMM, and for root those capabilities that mean something
  // here. Always the same object: whoever has it is nobody else than the VMM, and the host's answer is enough.
  static const std::shared_ptr<const Credentials>& of_vmm();
  bool may(unsigned number) const { return effective & capability(number); }
  bool in_group(gid_t) const;  // that of file access, or one of `groups`
  // access(2) asks for what the real ids could do.
  Credentials by_real_ids() const;
  // After execve(2). No file gives ids or capabilities, as on a file system mounted nosuid.
  Credentials executed() const;
};

// What the calls of these names make of it. Errors: EPERM, EINVAL.
using Changed = std::expected<Credentials, int>;
Changed set_user(const Credentials&, unsigned id);
Changed set_users(const Credentials&, unsigned real, unsigned effective);
Changed set_users(const Credentials&, unsigned real, unsigned effective, unsigned saved);
Credentials set_file_user(const Credentials&, unsigned id);  // the same, if it may not
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

// May the first send signals to, change the priority of, change the limits of the second?
bool may_signal(const Credentials&, const Credentials& target);
bool may_schedule(const Credentials&, const Credentials& target);
bool may_limit(const Credentials&, const Credentials& target);

// May they read (4), write (2), search or execute (1) what has that owner and mode? Access control lists are not looked
// at here, the host does so for the VMM.
bool may_access(const Credentials&, uid_t owner, gid_t group, mode_t mode, unsigned wanted);
// Are they the owner, or one who may do what owners may?
bool owns(const Credentials&, uid_t owner);

}  // namespace ramet::vmm
