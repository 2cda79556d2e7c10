// System calls about who a thread is: users, groups, capabilities. What may become what: credentials.hpp.
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>

#include <array>
#include <cerrno>
#include <vector>

#include "vmm/linux/credentials.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

// Gives the thread these credentials. 0 or -errno.
std::int64_t become(Thread& thread, Changed wanted) {
  if (!wanted) return -wanted.error();
  const auto before = thread.credentials();
  if (wanted->user.effective != before->user.effective || wanted->user.file != before->user.file)
    thread.process.family.set_death_signal(thread.process.pid, 0);  // as Linux: it was asked for with other ids
  thread.set_credentials(std::move(*wanted));
  return 0;
}

const Credentials& current(const Thread& thread) { return *thread.credentials(); }

std::int64_t sys_getuid(Thread& thread, const Args&) { return current(thread).user.real; }
std::int64_t sys_getgid(Thread& thread, const Args&) { return current(thread).group.real; }
std::int64_t sys_geteuid(Thread& thread, const Args&) { return current(thread).user.effective; }
std::int64_t sys_getegid(Thread& thread, const Args&) { return current(thread).group.effective; }
std::int64_t sys_setuid(Thread& thread, const Args& a) { return become(thread, set_user(current(thread), a.u32(0))); }
std::int64_t sys_setgid(Thread& thread, const Args& a) { return become(thread, set_group(current(thread), a.u32(0))); }
std::int64_t sys_setreuid(Thread& thread, const Args& a) {
  return become(thread, set_users(current(thread), a.u32(0), a.u32(1)));
}
std::int64_t sys_setregid(Thread& thread, const Args& a) {
  return become(thread, set_groups(current(thread), a.u32(0), a.u32(1)));
}
std::int64_t sys_setresuid(Thread& thread, const Args& a) {
  return become(thread, set_users(current(thread), a.u32(0), a.u32(1), a.u32(2)));
}
std::int64_t sys_setresgid(Thread& thread, const Args& a) {
  return become(thread, set_groups(current(thread), a.u32(0), a.u32(1), a.u32(2)));
}

std::int64_t put_three(Thread& thread, const Args& a, const Credentials::Ids& ids) {
  const std::array<unsigned, 3> values{ids.real, ids.effective, ids.saved};
  for (unsigned i = 0; i < 3; ++i)
    if (put_user(thread.memory(), a[i], values[i]) != 0) return -EFAULT;
  return 0;
}
std::int64_t sys_getresuid(Thread& thread, const Args& a) { return put_three(thread, a, current(thread).user); }
std::int64_t sys_getresgid(Thread& thread, const Args& a) { return put_three(thread, a, current(thread).group); }

// These return the old id, whether they changed it or not.
std::int64_t sys_setfsuid(Thread& thread, const Args& a) {
  const unsigned before = current(thread).user.file;
  (void)become(thread, set_file_user(current(thread), a.u32(0)));  // it cannot fail
  return before;
}
std::int64_t sys_setfsgid(Thread& thread, const Args& a) {
  const unsigned before = current(thread).group.file;
  (void)become(thread, set_file_group(current(thread), a.u32(0)));
  return before;
}

std::int64_t sys_getgroups(Thread& thread, const Args& a) {
  const auto& groups = current(thread).groups;
  if (a.i32(0) < 0) return -EINVAL;
  if (a.i32(0) == 0) return static_cast<std::int64_t>(groups.size());
  if (static_cast<std::size_t>(a.i32(0)) < groups.size()) return -EINVAL;
  return thread.memory().write(a[1], std::as_bytes(std::span(groups))) ? static_cast<std::int64_t>(groups.size())
                                                                       : -EFAULT;
}
std::int64_t sys_setgroups(Thread& thread, const Args& a) {
  if (!current(thread).may(CAP_SETGID)) return -EPERM;
  auto groups = read_user_array<gid_t>(thread.memory(), a[1], a.u32(0), Credentials::kMostGroups);
  return groups ? become(thread, set_supplementary(current(thread), std::move(*groups))) : -groups.error();
}

// --- capabilities ---

// How many words of each set the header's version has. An unknown version gets ours in its place.
OrErrno<unsigned> words_of(Thread& thread, mm::Gva at, __user_cap_header_struct& header) {
  auto given = read_user<__user_cap_header_struct>(thread.memory(), at);
  if (!given) return err(given.error());
  header = *given;
  switch (header.version) {
    case _LINUX_CAPABILITY_VERSION_1: return _LINUX_CAPABILITY_U32S_1;
    case _LINUX_CAPABILITY_VERSION_2:
    case _LINUX_CAPABILITY_VERSION_3: return _LINUX_CAPABILITY_U32S_3;
    default:
      header.version = _LINUX_CAPABILITY_VERSION_3;
      return put_user(thread.memory(), at, header) != 0 ? err(EFAULT) : err(EINVAL);
  }
}

std::uint32_t word(Capabilities set, unsigned i) { return static_cast<std::uint32_t>(set >> (32 * i)); }

std::int64_t sys_capget(Thread& thread, const Args& a) {
  __user_cap_header_struct header;
  auto words = words_of(thread, a[0], header);
  if (!words) return words.error() == EINVAL && !a[1] ? 0 : -words.error();  // only our version was asked for
  if (header.pid < 0) return -EINVAL;
  std::shared_ptr<const Credentials> of;
  const std::int64_t found = thread.process.family.with_thread(thread, header.pid, [&](const Thread& other) {
    of = other.credentials();
    return 0;
  });
  if (found < 0) return found;
  for (unsigned i = 0; a[1] && i < *words; ++i) {
    const __user_cap_data_struct sets{word(of->effective, i), word(of->permitted, i), word(of->inheritable, i)};
    if (put_user(thread.memory(), a[1] + i * sizeof sets, sets) != 0) return -EFAULT;
  }
  return 0;
}

std::int64_t sys_capset(Thread& thread, const Args& a) {
  __user_cap_header_struct header;
  auto words = words_of(thread, a[0], header);
  if (!words) return -words.error();
  if (header.pid != 0 && !thread.goes_by(header.pid)) return -EPERM;
  Capabilities effective = 0, permitted = 0, inheritable = 0;
  for (unsigned i = 0; i < *words; ++i) {
    auto sets = read_user<__user_cap_data_struct>(thread.memory(), a[1] + i * sizeof(__user_cap_data_struct));
    if (!sets) return -EFAULT;
    effective |= Capabilities{sets->effective} << (32 * i);
    permitted |= Capabilities{sets->permitted} << (32 * i);
    inheritable |= Capabilities{sets->inheritable} << (32 * i);
  }
  return become(thread, set_capabilities(current(thread), effective, permitted, inheritable));
}

std::int64_t ambient(Thread& thread, const Args& a) {
  if (a[1] == PR_CAP_AMBIENT_CLEAR_ALL) {
    if (a[2] | a[3] | a[4]) return -EINVAL;
    Credentials now = current(thread);
    now.ambient = 0;
    return become(thread, now);
  }
  if (a[2] > kLastCapability || a[3] || a[4]) return -EINVAL;
  switch (a[1]) {
    case PR_CAP_AMBIENT_IS_SET: return (current(thread).ambient & capability(static_cast<unsigned>(a[2]))) != 0;
    case PR_CAP_AMBIENT_RAISE: return become(thread, raise_ambient(current(thread), a[2]));
    case PR_CAP_AMBIENT_LOWER: return become(thread, lower_ambient(current(thread), a[2]));
    default: return -EINVAL;
  }
}

}  // namespace

std::int64_t identity_prctl(Thread& thread, const Args& a) {
  switch (a.i32(0)) {
    case PR_CAPBSET_READ:
      return a[1] > kLastCapability ? -EINVAL
                                    : (current(thread).bounding & capability(static_cast<unsigned>(a[1]))) != 0;
    case PR_CAPBSET_DROP: return become(thread, drop_bounding(current(thread), a[1]));
    case PR_GET_SECUREBITS: return current(thread).securebits;
    case PR_SET_SECUREBITS: return become(thread, set_securebits(current(thread), a[1]));
    case PR_GET_KEEPCAPS: return (current(thread).securebits & SECBIT_KEEP_CAPS) != 0;
    case PR_SET_KEEPCAPS: return become(thread, set_keep_capabilities(current(thread), a[1]));
    case PR_CAP_AMBIENT: return ambient(thread, a);
    default: return -EINVAL;
  }
}

std::span<const Definition> identity_calls() {
  static constexpr Definition kCalls[] = {
      {Call::getuid, sys_getuid},       {Call::getgid, sys_getgid},       {Call::geteuid, sys_geteuid},
      {Call::getegid, sys_getegid},     {Call::setuid, sys_setuid},       {Call::setgid, sys_setgid},
      {Call::setreuid, sys_setreuid},   {Call::setregid, sys_setregid},   {Call::setresuid, sys_setresuid},
      {Call::setresgid, sys_setresgid}, {Call::getresuid, sys_getresuid}, {Call::getresgid, sys_getresgid},
      {Call::setfsuid, sys_setfsuid},   {Call::setfsgid, sys_setfsgid},   {Call::getgroups, sys_getgroups},
      {Call::setgroups, sys_setgroups}, {Call::capget, sys_capget},       {Call::capset, sys_capset},
  };
  return kCalls;
}

}  // namespace ramet::vmm
