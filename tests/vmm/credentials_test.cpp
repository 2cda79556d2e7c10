// Who a guest's thread may become, and what its ids let it do: credentials.hpp.
#include "vmm/linux/credentials.hpp"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/stat.h>

namespace ramet::vmm {
namespace {

constexpr unsigned kKeep = static_cast<unsigned>(-1);
using Ids = Credentials::Ids;

Credentials root() {
  Credentials c;
  c.bounding = c.permitted = c.effective = capability(CAP_SETUID) | capability(CAP_SETGID) | capability(CAP_SETPCAP) |
                                           capability(CAP_CHOWN) | capability(CAP_DAC_OVERRIDE) |
                                           capability(CAP_FOWNER);
  return c;
}
Credentials user(unsigned id) {
  Credentials c;
  c.user = c.group = {id, id, id, id};
  return c;
}
int error_of(const Changed& c) { return c ? 0 : c.error(); }

TEST(Credentials, RootGivesItselfAwayForGood) {
  auto c = set_user(root(), 7);
  ASSERT_TRUE(c);
  EXPECT_EQ(c->user, (Ids{7, 7, 7, 7}));
  EXPECT_EQ(c->permitted | c->effective, 0u);
  EXPECT_EQ(error_of(set_user(*c, 0)), EPERM);
  EXPECT_EQ(error_of(set_users(*c, 0, kKeep)), EPERM);
  EXPECT_EQ(error_of(set_users(*c, kKeep, kKeep, 0)), EPERM);
  EXPECT_EQ(error_of(set_group(*c, 7)), EPERM);
  EXPECT_EQ(error_of(set_supplementary(*c, {})), EPERM);
  EXPECT_EQ(error_of(set_user(root(), kKeep)), EINVAL);
}

TEST(Credentials, AnEffectiveIdAloneCanBeTakenBack) {
  auto c = set_users(root(), kKeep, 7, kKeep);
  ASSERT_TRUE(c);
  EXPECT_EQ(c->effective, 0u);
  EXPECT_EQ(c->permitted, root().permitted);
  auto back = set_users(*c, kKeep, 0, kKeep);
  ASSERT_TRUE(back);
  EXPECT_EQ(*back, root());
}

TEST(Credentials, SetreuidSavesWhatBecomesEffective) {
  Credentials c = user(1);
  c.user = {1, 2, 1, 2};
  auto swapped = set_users(c, 2, 1);
  ASSERT_TRUE(swapped);
  EXPECT_EQ(swapped->user, (Ids{2, 1, 1, 1}));
  EXPECT_EQ(error_of(set_users(c, 3, kKeep)), EPERM);
}

TEST(Credentials, KeptCapabilitiesArePermittedOnly) {
  auto keep = set_keep_capabilities(root(), 1);
  ASSERT_TRUE(keep);
  auto c = set_user(*keep, 7);
  ASSERT_TRUE(c);
  EXPECT_EQ(c->permitted, root().permitted);
  EXPECT_EQ(c->effective, 0u);
  EXPECT_EQ(c->executed().permitted, 0u);  // unless they are ambient
  auto inherits = set_capabilities(*c, 0, c->permitted, capability(CAP_CHOWN));
  ASSERT_TRUE(inherits);
  auto ambient = raise_ambient(*inherits, CAP_CHOWN);
  ASSERT_TRUE(ambient);
  EXPECT_EQ(ambient->executed().effective, capability(CAP_CHOWN));
  EXPECT_EQ(error_of(raise_ambient(*inherits, CAP_FOWNER)), EPERM);
  EXPECT_EQ(error_of(raise_ambient(*inherits, 64)), EINVAL);
  EXPECT_EQ(error_of(set_keep_capabilities(root(), 2)), EINVAL);
}

TEST(Credentials, CapabilitiesOnlyGoAway) {
  auto less = set_capabilities(root(), 0, capability(CAP_CHOWN), 0);
  ASSERT_TRUE(less);
  EXPECT_EQ(error_of(set_capabilities(*less, 0, root().permitted, 0)), EPERM);
  EXPECT_EQ(error_of(set_capabilities(*less, capability(CAP_FOWNER), capability(CAP_CHOWN), 0)), EPERM);
  EXPECT_EQ(less->executed().permitted, capability(CAP_CHOWN));  // not even a root that runs a program gets them back
  auto bounded = drop_bounding(root(), CAP_CHOWN);
  ASSERT_TRUE(bounded);
  EXPECT_FALSE(bounded->executed().may(CAP_CHOWN));
  EXPECT_TRUE(bounded->executed().may(CAP_FOWNER));
  EXPECT_EQ(error_of(drop_bounding(root(), kLastCapability + 1)), EINVAL);
  EXPECT_EQ(error_of(drop_bounding(user(7), CAP_CHOWN)), EPERM);
}

TEST(Credentials, LockedSecurebitsStay) {
  auto c = set_securebits(root(), SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED);
  ASSERT_TRUE(c);
  EXPECT_EQ(error_of(set_securebits(*c, 0)), EPERM);
  EXPECT_EQ(error_of(set_securebits(*c, SECBIT_NO_SETUID_FIXUP_LOCKED)), EPERM);
  EXPECT_EQ(error_of(set_securebits(root(), 1u << 30)), EPERM);
  EXPECT_EQ(set_user(*c, 7)->effective, root().effective);
}

TEST(Credentials, TheFileIdsTakeFileCapabilitiesAlong) {
  Credentials c = set_file_user(root(), 7);
  EXPECT_EQ(c.user, (Ids{0, 0, 0, 7}));
  EXPECT_FALSE(c.may(CAP_DAC_OVERRIDE));
  EXPECT_TRUE(c.may(CAP_SETUID));
  EXPECT_EQ(set_file_user(c, 0), root());
  EXPECT_EQ(set_file_user(user(7), 0), user(7));
}

TEST(Credentials, FilesAskTheFirstOfOwnerGroupAndOthers) {
  const Credentials c = *set_supplementary(root(), {9, 5});
  Credentials one = *set_user(c, 7);
  EXPECT_TRUE(may_access(one, 7, 0, S_IFREG | 0400, 4));
  EXPECT_FALSE(may_access(one, 7, 0, S_IFREG | 0077, 4));
  EXPECT_TRUE(may_access(one, 0, 5, S_IFREG | 0040, 4));
  EXPECT_FALSE(may_access(one, 0, 5, S_IFREG | 0704, 4));
  EXPECT_TRUE(may_access(one, 0, 1, S_IFREG | 0004, 4));
  EXPECT_FALSE(may_access(one, 0, 1, S_IFREG | 0004, 6));
  EXPECT_FALSE(may_access(root(), 7, 7, S_IFREG | 0600, 1));  // nobody runs what has no x at all
  EXPECT_TRUE(may_access(root(), 7, 7, S_IFDIR, 7));
  EXPECT_FALSE(owns(one, 0));
  EXPECT_TRUE(owns(root(), 7));
}

TEST(Credentials, OthersAreAskedByTheirRealIds) {
  const Credentials a = user(1), b = user(2);
  Credentials visiting = b;
  visiting.user.effective = 1;
  EXPECT_FALSE(may_signal(a, b));
  EXPECT_FALSE(may_signal(a, visiting));
  EXPECT_TRUE(may_signal(visiting, a));
  EXPECT_TRUE(may_schedule(a, visiting));
  EXPECT_FALSE(may_schedule(a, b));
  EXPECT_FALSE(may_limit(a, visiting));
  EXPECT_TRUE(may_limit(a, a));
}

TEST(Credentials, GroupsHaveABound) {
  EXPECT_EQ(error_of(set_supplementary(root(), std::vector<gid_t>(Credentials::kMostGroups + 1))), EINVAL);
  EXPECT_TRUE(set_supplementary(root(), std::vector<gid_t>(Credentials::kMostGroups)));
  EXPECT_EQ(error_of(set_supplementary(root(), {kKeep})), EINVAL);
}

}  // namespace
}  // namespace ramet::vmm
