// struct stat of x86-64 programs (Linux: arch/x86/include/uapi/asm/stat.h).
#pragma once

#include <sys/stat.h>

#include <array>
#include <cstdint>

namespace ramet::arch::x86_64 {

struct Stat {
  std::uint64_t device, inode, links;
  std::uint32_t mode, user, group, padding;
  std::uint64_t special;            // st_rdev
  std::int64_t size, block_size, blocks;
  std::array<std::int64_t, 6> times;  // of access, modification, change: seconds, nanoseconds
  std::array<std::int64_t, 3> unused;
};
static_assert(sizeof(Stat) == 144);

inline Stat stat_of(const struct ::stat& st) {
  return {.device = st.st_dev,
          .inode = st.st_ino,
          .links = st.st_nlink,
          .mode = st.st_mode,
          .user = st.st_uid,
          .group = st.st_gid,
          .padding = 0,
          .special = st.st_rdev,
          .size = st.st_size,
          .block_size = st.st_blksize,
          .blocks = st.st_blocks,
          .times = {st.st_atim.tv_sec, st.st_atim.tv_nsec, st.st_mtim.tv_sec, st.st_mtim.tv_nsec, st.st_ctim.tv_sec,
                    st.st_ctim.tv_nsec},
          .unused = {}};
}

}  // namespace ramet::arch::x86_64
