// struct stat of arm64 programs (Linux: include/uapi/asm-generic/stat.h).
#pragma once

#include <sys/stat.h>

#include <array>
#include <cstdint>

namespace ramet::arch::arm64 {

struct Stat {
  std::uint64_t device, inode;
  std::uint32_t mode, links, user, group;
  std::uint64_t special;            // st_rdev
  std::uint64_t padding;
  std::int64_t size;
  std::int32_t block_size, padding2;
  std::int64_t blocks;
  std::array<std::int64_t, 6> times;  // of access, modification, change: seconds, nanoseconds
  std::array<std::uint32_t, 2> unused;
};
static_assert(sizeof(Stat) == 128);

inline Stat stat_of(const struct ::stat& st) {
  return {.device = st.st_dev,
          .inode = st.st_ino,
          .mode = st.st_mode,
          .links = static_cast<std::uint32_t>(st.st_nlink),
          .user = st.st_uid,
          .group = st.st_gid,
          .special = st.st_rdev,
          .padding = 0,
          .size = st.st_size,
          .block_size = static_cast<std::int32_t>(st.st_blksize),
          .padding2 = 0,
          .blocks = st.st_blocks,
          .times = {st.st_atim.tv_sec, st.st_atim.tv_nsec, st.st_mtim.tv_sec, st.st_mtim.tv_nsec, st.st_ctim.tv_sec,
                    st.st_ctim.tv_nsec},
          .unused = {}};
}

}  // namespace ramet::arch::arm64
