// A map as it lies in a guest's memory: for the VMM, which makes it, and for the helpers there (helpers.bpf.c).
#pragma once

#ifdef __cplusplus
#include <linux/bpf.h>

#include <cstdint>
namespace ramet::vmm::bpf {
using map_u32 = std::uint32_t;
using map_u64 = std::uint64_t;
#else
typedef unsigned int map_u32;
typedef unsigned long long map_u64;
#endif

// Where a vCPU finds its number: its stack lies in an aligned area of this size, the number at this place in it.
enum { VCPU_AREA = 0x10000, VCPU_NUMBER = 0xf000 };
enum { MOST_VCPUS = 64 };
// Number of a helper that helpers alone may call.
enum { VDSO_CLOCK = 0x6fff };

// Programs and helpers know a map by the address of this. Entries of a hash map: struct entry, key and value, each at a
// multiple of 8 bytes.
struct map {
  map_u32 type, key_size, value_size, max_entries;
  map_u32 stride;        // bytes from one value, or entry, to the next
  map_u32 value_offset;  // of the value in an entry
  map_u32 mask;          // hash: number of heads less one; ring buffer: size less one
  map_u32 lock;          // 0, or who holds it: a vCPU's number + 1
  map_u64 data;          // values, entries, or the ring
  map_u64 heads;         // hash: numbers of entries + 1, 0: none
  map_u64 vcpu_stride;   // per-vCPU array: bytes from one vCPU's values to the next one's
  map_u32 used;          // hash: entries handed out so far, in order
  map_u32 free;          // hash: list of those that were given back, as heads
  map_u64 consumed, produced;  // ring buffer: bytes ever
};

struct entry {
  map_u32 next, hash;
};

// What the VMM asks of the helpers: a context of the programs in sections "host/...".
struct request {
  map_u64 map, flags;
  map_u64 result;        // as the helper's
  map_u32 vcpu;          // whose values of a per-vCPU array
  map_u32 reserved;
  unsigned char bytes[];  // the key, then the value, each at a multiple of 8 bytes
};

#ifdef __cplusplus
}  // namespace ramet::vmm::bpf
#endif
