// The rules are those of Linux: kernel/sys.c, security/commoncap.c, fs/namei.c.
#include "vmm/linux/credentials.hpp"

#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace ramet::vmm {
namespace {

constexpr unsigned kNone = static_cast<unsigned>(-1);  // leaves an id as it is

constexpr Capabilities kOfFiles = capability(CAP_CHOWN) | capability(CAP_DAC_OVERRIDE) |
                                  capability(CAP_DAC_READ_SEARCH) | capability(CAP_FOWNER) | capability(CAP_FSETID);
// The capabilities that have an effect here: what the others allow (mounting, modules, networks) is always refused.
constexpr Capabilities kOfRoot = kOfFiles | capability(CAP_KILL) | capability(CAP_SETGID) | capability(CAP_SETUID) |
                                 capability(CAP_SETPCAP) | capability(CAP_IPC_LOCK) | capability(CAP_IPC_OWNER) |
                                 capability(CAP_SYS_NICE) | capability(CAP_SYS_RESOURCE);

bool is_root(const Credentials::Ids& user) { return user.any(0); }

// cap_emulate_setxuid(): root's capabilities go with root.
void follow_user(Credentials& now, const Credentials& before) {
  if (now.securebits & SECBIT_NO_SETUID_FIXUP) return;
  if (is_root(before.user) && !is_root(now.user)) {
    if (!(now.securebits & SECBIT_KEEP_CAPS)) now.permitted = now.effective = 0;
    now.ambient = 0;
  }
  if (before.user.effective == 0 && now.user.effective != 0) now.effective = 0;
  if (before.user.effective != 0 && now.user.effective == 0) now.effective = now.permitted;
}

std::expected<Credentials::Ids, int> one(Credentials::Ids ids, unsigned id, bool any) {
  if (id == kNone) return std::unexpected(EINVAL);
  if (any) ids.real = ids.saved = id;
  else if (id != ids.real && id != ids.saved) return std::unexpected(EPERM);
  ids.effective = ids.file = id;
  return ids;
}

std::expected<Credentials::Ids, int> two(const Credentials::Ids& before, unsigned real, unsigned effective, bool any) {
  Credentials::Ids ids = before;
  if (real != kNone && !any && real != before.real && real != before.effective) return std::unexpected(EPERM);
  if (effective != kNone && !any && !before.any(effective)) return std::unexpected(EPERM);
  if (real != kNone) ids.real = real;
  if (effective != kNone) ids.effective = effective;
  if (real != kNone || (effective != kNone && effective != before.real)) ids.saved = ids.effective;
  ids.file = ids.effective;
  return ids;
}

std::expected<Credentials::Ids, int> three(const Credentials::Ids& before, unsigned real, unsigned effective,
                                           unsigned saved, bool any) {
  for (unsigned id : {real, effective, saved})
    if (id != kNone && !any && !before.any(id)) return std::unexpected(EPERM);
  Credentials::Ids ids = before;
  if (real != kNone) ids.real = real;
  if (effective != kNone) ids.effective = effective;
  if (saved != kNone) ids.saved = saved;
  ids.file = ids.effective;
  return ids;
}

Changed with_user(const Credentials& c, const std::expected<Credentials::Ids, int>& ids) {
  if (!ids) return std::unexpected(ids.error());
  Credentials now = c;
  now.user = *ids;
  follow_user(now, c);
  return now;
}

Changed with_group(const Credentials& c, const std::expected<Credentials::Ids, int>& ids) {
  if (!ids) return std::unexpected(ids.error());
  Credentials now = c;
  now.group = *ids;
  return now;
}

}  // namespace

const std::shared_ptr<const Credentials>& Credentials::of_vmm() {
  static const std::shared_ptr<const Credentials> first = [] {
    auto c = std::make_shared<Credentials>();
    c->user = {::getuid(), ::geteuid(), ::geteuid(), ::geteuid()};
    c->group = {::getgid(), ::getegid(), ::getegid(), ::getegid()};
    c->bounding = kOfRoot;
    if (c->user.effective == 0) c->permitted = c->effective = kOfRoot;
    return c;
  }();
  return first;
}

bool Credentials::in_group(gid_t id) const { return id == group.file || std::ranges::binary_search(groups, id); }

Credentials Credentials::by_real_ids() const {
  Credentials c = *this;
  c.user.file = user.real;
  c.group.file = group.real;
  if (!(securebits & SECBIT_NO_SETUID_FIXUP)) c.effective = user.real == 0 ? permitted : 0;
  return c;
}

Credentials Credentials::executed() const {
  Credentials c = *this;
  c.user.saved = c.user.file = user.effective;
  c.group.saved = c.group.file = group.effective;
  Capabilities gained = 0;
  bool effective_too = false;
  if (!(securebits & SECBIT_NOROOT)) {
    // execve(2) gives no new privileges here, as after PR_SET_NO_NEW_PRIVS, which PR_GET_NO_NEW_PRIVS always reports.
    if (user.effective == 0 || user.real == 0) gained = (bounding | inheritable) & permitted;
    effective_too = user.effective == 0;
  }
  c.permitted = gained | ambient;
  c.effective = effective_too ? c.permitted : ambient;
  c.securebits &= ~static_cast<unsigned>(SECBIT_KEEP_CAPS);
  return c;
}

Changed set_user(const Credentials& c, unsigned id) { return with_user(c, one(c.user, id, c.may(CAP_SETUID))); }
Changed set_users(const Credentials& c, unsigned real, unsigned effective) {
  return with_user(c, two(c.user, real, effective, c.may(CAP_SETUID)));
}
Changed set_users(const Credentials& c, unsigned real, unsigned effective, unsigned saved) {
  return with_user(c, three(c.user, real, effective, saved, c.may(CAP_SETUID)));
}
Credentials set_file_user(const Credentials& c, unsigned id) {
  Credentials now = c;
  if (id == kNone || (!c.user.any(id) && id != c.user.file && !c.may(CAP_SETUID))) return now;
  now.user.file = id;
  if (c.securebits & SECBIT_NO_SETUID_FIXUP) return now;
  if (c.user.file == 0 && id != 0) now.effective &= ~kOfFiles;
  if (c.user.file != 0 && id == 0) now.effective |= now.permitted & kOfFiles;
  return now;
}

Changed set_group(const Credentials& c, unsigned id) { return with_group(c, one(c.group, id, c.may(CAP_SETGID))); }
Changed set_groups(const Credentials& c, unsigned real, unsigned effective) {
  return with_group(c, two(c.group, real, effective, c.may(CAP_SETGID)));
}
Changed set_groups(const Credentials& c, unsigned real, unsigned effective, unsigned saved) {
  return with_group(c, three(c.group, real, effective, saved, c.may(CAP_SETGID)));
}
Credentials set_file_group(const Credentials& c, unsigned id) {
  Credentials now = c;
  if (id != kNone && (c.group.any(id) || id == c.group.file || c.may(CAP_SETGID))) now.group.file = id;
  return now;
}

Changed set_supplementary(const Credentials& c, std::vector<gid_t> groups) {
  if (!c.may(CAP_SETGID)) return std::unexpected(EPERM);
  if (groups.size() > Credentials::kMostGroups || std::ranges::find(groups, kNone) != groups.end())
    return std::unexpected(EINVAL);
  std::ranges::sort(groups);
  Credentials now = c;
  now.groups = std::move(groups);
  return now;
}

Changed set_capabilities(const Credentials& c, Capabilities effective, Capabilities permitted,
                         Capabilities inheritable) {
  effective &= kAllCapabilities, permitted &= kAllCapabilities, inheritable &= kAllCapabilities;
  if (!c.may(CAP_SETPCAP) && (inheritable & ~(c.inheritable | c.permitted))) return std::unexpected(EPERM);
  if ((inheritable & ~(c.inheritable | c.bounding)) || (permitted & ~c.permitted) || (effective & ~permitted))
    return std::unexpected(EPERM);
  Credentials now = c;
  now.effective = effective, now.permitted = permitted, now.inheritable = inheritable;
  now.ambient &= permitted & inheritable;
  return now;
}

Changed drop_bounding(const Credentials& c, std::uint64_t number) {
  if (!c.may(CAP_SETPCAP)) return std::unexpected(EPERM);
  if (number > kLastCapability) return std::unexpected(EINVAL);
  Credentials now = c;
  now.bounding &= ~capability(static_cast<unsigned>(number));
  return now;
}

Changed set_securebits(const Credentials& c, std::uint64_t bits) {
  constexpr std::uint64_t kLocks = SECURE_ALL_LOCKS, kBits = SECURE_ALL_BITS;
  const std::uint64_t had = c.securebits;
  const bool locked = ((had & kLocks) >> 1) & (had ^ bits), unlocks = had & kLocks & ~bits;
  if (locked || unlocks || (bits & ~(kLocks | kBits)) || !c.may(CAP_SETPCAP)) return std::unexpected(EPERM);
  Credentials now = c;
  now.securebits = static_cast<unsigned>(bits);
  return now;
}

Changed set_keep_capabilities(const Credentials& c, std::uint64_t keep) {
  if (keep > 1) return std::unexpected(EINVAL);
  if (c.securebits & SECBIT_KEEP_CAPS_LOCKED) return std::unexpected(EPERM);
  Credentials now = c;
  constexpr unsigned kKeep = SECBIT_KEEP_CAPS;
  now.securebits = keep ? now.securebits | kKeep : now.securebits & ~kKeep;
  return now;
}

Changed raise_ambient(const Credentials& c, std::uint64_t number) {
  if (number > kLastCapability) return std::unexpected(EINVAL);
  const Capabilities bit = capability(static_cast<unsigned>(number));
  if (!(c.permitted & c.inheritable & bit) || (c.securebits & SECBIT_NO_CAP_AMBIENT_RAISE))
    return std::unexpected(EPERM);
  Credentials now = c;
  now.ambient |= bit;
  return now;
}

Changed lower_ambient(const Credentials& c, std::uint64_t number) {
  if (number > kLastCapability) return std::unexpected(EINVAL);
  Credentials now = c;
  now.ambient &= ~capability(static_cast<unsigned>(number));
  return now;
}

bool may_signal(const Credentials& c, const Credentials& target) {
  for (unsigned id : {c.user.effective, c.user.real})
    if (id == target.user.saved || id == target.user.real) return true;
  return c.may(CAP_KILL);
}

bool may_schedule(const Credentials& c, const Credentials& target) {
  return c.user.effective == target.user.real || c.user.effective == target.user.effective || c.may(CAP_SYS_NICE);
}

bool may_limit(const Credentials& c, const Credentials& target) {
  const auto all = [](const Credentials::Ids& ids, unsigned id) {
    return ids.real == id && ids.effective == id && ids.saved == id;
  };
  return (all(target.user, c.user.real) && all(target.group, c.group.real)) || c.may(CAP_SYS_RESOURCE);
}

bool may_access(const Credentials& c, uid_t owner, gid_t group, mode_t mode, unsigned wanted) {
  const unsigned granted = c.user.file == owner ? mode >> 6 : c.in_group(group) ? mode >> 3 : mode;
  if (!(wanted & ~granted & 7)) return true;
  if (S_ISDIR(mode)) {
    if (!(wanted & 2) && c.may(CAP_DAC_READ_SEARCH)) return true;
    return c.may(CAP_DAC_OVERRIDE);
  }
  if (wanted == 4 && c.may(CAP_DAC_READ_SEARCH)) return true;
  return c.may(CAP_DAC_OVERRIDE) && (!(wanted & 1) || (mode & 0111));
}

bool owns(const Credentials& c, uid_t owner) { return c.user.file == owner || c.may(CAP_FOWNER); }

}  // namespace ramet::vmm
