// Helpers that need nothing of the host, as eBPF functions: compiled by jit/ like the programs that call them, they are
// there in guests of every instruction set. Section "helper/N" is helper N of Linux, see bpf-helpers(7), and so is
// "clock/N" where the machine lets guest code tell the time; "host/NAME" is for the VMM. A vCPU may be stopped while it
// holds a map's lock, which the VMM then releases (maps.cpp): so a map is sound between any two stores, at worst with an
// entry less to hand out, and no walk takes more steps than there are entries.
#include "vmm/bpf/map.h"

typedef map_u32 u32;
typedef map_u64 u64;
typedef long long s64;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static __attribute__((always_inline)) inline

enum { HASH = 1, ARRAY = 2, PERCPU_ARRAY = 6, RINGBUF = 27 };
enum { ANY = 0, NOEXIST = 1, EXIST = 2 };
enum { ENOENT = 2, E2BIG = 7, EEXIST = 17, EINVAL = 22 };

INLINE u32 vcpu_number(void) {
  u64 frame;
  asm("%0 = r10" : "=r"(frame));
  return *(volatile u32*)((frame & ~(u64)(VCPU_AREA - 1)) + VCPU_NUMBER);
}

INLINE void lock(struct map* m) {
  const u32 me = vcpu_number() + 1;
  while (__sync_val_compare_and_swap(&m->lock, 0, me) != 0) {}
}

INLINE void unlock(struct map* m) { __sync_lock_test_and_set(&m->lock, 0); }

INLINE void copy(unsigned char* to, const unsigned char* from, u32 bytes) {
  u32 i = 0;
  for (; i + 8 <= bytes; i += 8) *(u64*)(to + i) = *(const u64*)(from + i);
  for (; i < bytes; ++i) to[i] = from[i];
}

INLINE int equal(const unsigned char* a, const unsigned char* b, u32 bytes) {
  u32 i = 0;
  for (; i + 8 <= bytes; i += 8)
    if (*(const u64*)(a + i) != *(const u64*)(b + i)) return 0;
  for (; i < bytes; ++i)
    if (a[i] != b[i]) return 0;
  return 1;
}

// Multiplication spreads a key's bits upwards, the shifts bring them down again.
INLINE u32 hash_of(const unsigned char* key, u32 bytes) {
  u64 h = bytes;
  u32 i = 0;
  for (; i + 8 <= bytes; i += 8) h = (h ^ *(const u64*)(key + i)) * 0x9e3779b97f4a7c15ull, h ^= h >> 29;
  for (; i < bytes; ++i) h = (h ^ key[i]) * 0x9e3779b97f4a7c15ull, h ^= h >> 29;
  return (u32)(h ^ h >> 32);
}

INLINE struct entry* entry_at(const struct map* m, u32 number) {
  return (struct entry*)(m->data + (u64)(number - 1) * m->stride);
}

// The place that holds the number of the key's entry; null: there is none.
INLINE u32* find(const struct map* m, const unsigned char* key, u32 hash) {
  u32* place = (u32*)m->heads + (hash & m->mask);
  for (u32 steps = 0; *place != 0 && steps < m->max_entries; ++steps) {
    struct entry* e = entry_at(m, *place);
    if (e->hash == hash && equal((unsigned char*)(e + 1), key, m->key_size)) return place;
    place = &e->next;
  }
  return 0;
}

INLINE unsigned char* array_value(const struct map* m, const void* key, u32 vcpu) {
  const u32 index = *(const u32*)key;
  if (index >= m->max_entries) return 0;
  const u64 values = m->data + (m->type == PERCPU_ARRAY ? vcpu * m->vcpu_stride : 0);
  return (unsigned char*)(values + (u64)index * m->stride);
}

INLINE unsigned char* lookup(struct map* m, const void* key, u32 vcpu) {
  if (m->type == ARRAY || m->type == PERCPU_ARRAY) return array_value(m, key, vcpu);
  if (m->type != HASH) return 0;
  const u32 hash = hash_of(key, m->key_size);
  lock(m);
  const u32* place = find(m, key, hash);
  unsigned char* value = place ? (unsigned char*)entry_at(m, *place) + m->value_offset : 0;
  unlock(m);
  return value;
}

INLINE s64 insert(struct map* m, const unsigned char* key, u32 hash, const unsigned char* value) {
  u32 number = m->free;
  if (number != 0) {
    m->free = entry_at(m, number)->next;
  } else {
    if (m->used >= m->max_entries) return -E2BIG;
    number = ++m->used;
  }
  struct entry* e = entry_at(m, number);
  e->hash = hash;
  copy((unsigned char*)(e + 1), key, m->key_size);
  copy((unsigned char*)e + m->value_offset, value, m->value_size);
  u32* head = (u32*)m->heads + (hash & m->mask);
  e->next = *head;
  *(volatile u32*)head = number;
  return 0;
}

INLINE s64 update(struct map* m, const void* key, const void* value, u64 flags, u32 vcpu) {
  if (flags > EXIST) return -EINVAL;
  if (m->type == ARRAY || m->type == PERCPU_ARRAY) {
    unsigned char* place = array_value(m, key, vcpu);
    if (!place) return -E2BIG;
    if (flags == NOEXIST) return -EEXIST;
    copy(place, value, m->value_size);
    return 0;
  }
  if (m->type != HASH) return -EINVAL;
  const u32 hash = hash_of(key, m->key_size);
  s64 result = 0;
  lock(m);
  const u32* place = find(m, key, hash);
  if (place && flags == NOEXIST) result = -EEXIST;
  else if (!place && flags == EXIST) result = -ENOENT;
  else if (place) copy((unsigned char*)entry_at(m, *place) + m->value_offset, value, m->value_size);
  else result = insert(m, key, hash, value);
  unlock(m);
  return result;
}

INLINE s64 erase(struct map* m, const void* key) {
  if (m->type != HASH) return -EINVAL;
  const u32 hash = hash_of(key, m->key_size);
  s64 result = -ENOENT;
  lock(m);
  u32* place = find(m, key, hash);
  if (place) {
    const u32 number = *place;
    struct entry* e = entry_at(m, number);
    *(volatile u32*)place = e->next;
    e->next = m->free;
    *(volatile u32*)&m->free = number;
    result = 0;
  }
  unlock(m);
  return result;
}

SECTION("helper/1") void* map_lookup_elem(struct map* m, const void* key) { return lookup(m, key, vcpu_number()); }

SECTION("helper/2") s64 map_update_elem(struct map* m, const void* key, const void* value, u64 flags) {
  return update(m, key, value, flags, vcpu_number());
}

SECTION("helper/3") s64 map_delete_elem(struct map* m, const void* key) { return erase(m, key); }

// Linux has a state for each CPU. Here all vCPUs advance one, so that no two see the same numbers.
static u64 random_state = 0x853c49e6748fea9bull;

SECTION("helper/7") u64 get_prandom_u32(void) {
  u64 x = __sync_fetch_and_add(&random_state, 0x9e3779b97f4a7c15ull);
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return (u32)(x ^ x >> 31);
}

SECTION("helper/8") u64 get_smp_processor_id(void) { return vcpu_number(); }

// The host's clock_gettime(2), where guest code can call it: helper VDSO_CLOCK, which only these helpers may name.
static s64 (*const vdso_clock)(u64 clock, s64* seconds_and_nanoseconds) = (void*)VDSO_CLOCK;

INLINE u64 nanoseconds(u64 clock) {
  s64 time[2];
  vdso_clock(clock, time);
  return (u64)time[0] * 1000000000ull + (u64)time[1];
}

SECTION("clock/5") u64 ktime_get_ns(void) { return nanoseconds(1); }         // CLOCK_MONOTONIC
SECTION("clock/125") u64 ktime_get_boot_ns(void) { return nanoseconds(7); }  // CLOCK_BOOTTIME

// The ring: records of a header and data, at multiples of 8 bytes. A record that does not fit before the end begins at the
// start, and what is left at the end counts as discarded. Positions only rise.
enum { BUSY = 1u << 31, DISCARD = 1u << 30, HEADER = 8 };
enum { NO_WAKEUP = 1, FORCE_WAKEUP = 2 };
enum { AVAIL_DATA = 0, RING_SIZE = 1, CONS_POS = 2, PROD_POS = 3 };

INLINE unsigned char* reserve(struct map* m, u64 size) {
  const u64 ring = (u64)m->mask + 1;
  if (m->type != RINGBUF || size > ring - HEADER || size >= DISCARD) return 0;
  const u64 needed = (HEADER + size + 7) & ~7ull;
  unsigned char* data = 0;
  lock(m);
  u64 at = m->produced;
  const u64 left = ring - (at & m->mask);
  const u64 skipped = left < needed ? left : 0;
  if (at + skipped + needed - *(volatile u64*)&m->consumed <= ring) {
    if (skipped) *(volatile u32*)(m->data + (at & m->mask)) = (u32)(skipped - HEADER) | DISCARD;
    at += skipped;
    volatile u32* header = (volatile u32*)(m->data + (at & m->mask));
    *header = (u32)size | BUSY;
    data = (unsigned char*)header + HEADER;
    *(volatile u64*)&m->produced = at + needed;
  }
  unlock(m);
  return data;
}

INLINE void commit(void* data, u32 flag) {
  u32* header = (u32*)((unsigned char*)data - HEADER);
  __sync_lock_test_and_set(header, (*header & ~BUSY) | flag);
}

SECTION("helper/130") s64 ringbuf_output(struct map* m, const void* data, u64 size, u64 flags) {
  if (flags & ~(u64)(NO_WAKEUP | FORCE_WAKEUP)) return -EINVAL;
  unsigned char* to = reserve(m, size);
  if (!to) return -11;  // EAGAIN
  copy(to, data, (u32)size);
  commit(to, 0);
  return 0;
}

SECTION("helper/131") void* ringbuf_reserve(struct map* m, u64 size, u64 flags) { return flags ? 0 : reserve(m, size); }
SECTION("helper/132") u64 ringbuf_submit(void* data, u64 flags) { commit(data, 0); return 0; }
SECTION("helper/133") u64 ringbuf_discard(void* data, u64 flags) { commit(data, DISCARD); return 0; }

SECTION("helper/134") u64 ringbuf_query(struct map* m, u64 flags) {
  const u64 consumed = *(volatile u64*)&m->consumed, produced = *(volatile u64*)&m->produced;
  switch (flags) {
    case AVAIL_DATA: return produced - consumed;
    case RING_SIZE: return m->type == RINGBUF ? (u64)m->mask + 1 : 0;
    case CONS_POS: return consumed;
    case PROD_POS: return produced;
    default: return 0;
  }
}

// The VMM's own accesses to maps, see struct request.
INLINE unsigned char* value_of(struct request* r) {
  return r->bytes + ((((struct map*)r->map)->key_size + 7) & ~7u);
}

SECTION("host/lookup") u64 host_lookup(struct request* r) {
  struct map* m = (struct map*)r->map;
  const unsigned char* value = lookup(m, r->bytes, r->vcpu);
  r->result = value != 0;
  if (value) copy(value_of(r), value, m->value_size);
  return 0;
}

SECTION("host/update") u64 host_update(struct request* r) {
  r->result = (u64)update((struct map*)r->map, r->bytes, value_of(r), r->flags, r->vcpu);
  return 0;
}

SECTION("host/erase") u64 host_erase(struct request* r) {
  r->result = (u64)erase((struct map*)r->map, r->bytes);
  return 0;
}

// Replaces the request's key by that of the entry after it in a hash map, or of the first one where flags is not 0.
SECTION("host/next") u64 host_next(struct request* r) {
  struct map* m = (struct map*)r->map;
  r->result = 0;
  if (m->type != HASH) return 0;
  lock(m);
  const u32 hash = hash_of(r->bytes, m->key_size);
  u32 head = r->flags ? 0 : (hash & m->mask) + 1, next = 0;
  if (!r->flags) {
    const u32* place = find(m, r->bytes, hash);
    if (place) next = entry_at(m, *place)->next;
  }
  for (; next == 0 && head <= m->mask; ++head) next = ((u32*)m->heads)[head];
  if (next) {
    copy(r->bytes, (unsigned char*)(entry_at(m, next) + 1), m->key_size);
    r->result = 1;
  }
  unlock(m);
  return 0;
}
