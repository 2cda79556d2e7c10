// Functions that guest_test.cpp calls: their contexts are what it sends along.
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) value* name

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 64);
  __type(key, __u64);
  __type(value, __u64);
} hash SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 16);
  __type(key, __u32);
  __type(value, __u64);
} array SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 2);
  __type(key, __u32);
  __type(value, __u64);
} each SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
} ring SEC(".maps");

static void* (*lookup)(void* map, const void* key) = (void*)1;
static long (*update)(void* map, const void* key, const void* value, __u64 flags) = (void*)2;
static long (*erase)(void* map, const void* key) = (void*)3;
static __u64 (*ktime)(void) = (void*)5;
static long (*trace)(const char* format, __u32 bytes, ...) = (void*)6;
static __u64 (*prandom)(void) = (void*)7;
static __u64 (*processor)(void) = (void*)8;
static long (*output)(void* ring, void* data, __u64 bytes, __u64 flags) = (void*)130;
static void* (*reserve)(void* ring, __u64 bytes, __u64 flags) = (void*)131;
static void (*submit)(void* data, __u64 flags) = (void*)132;
static void (*discard)(void* data, __u64 flags) = (void*)133;
static __u64 (*query)(void* ring, __u64 what) = (void*)134;

struct words {
  __u64 word[4];
};

SEC("call/sum") __u64 sum(unsigned char* bytes, __u64 length) {
  __u64 s = 0;
  for (__u64 i = 0; i < length; ++i) {
    s += bytes[i];
    bytes[i] = ~bytes[i];
  }
  return s;
}

SEC("call/hash") __u64 on_hash(struct words* w) {
  switch (w->word[0]) {
    case 0: {
      __u64* value = lookup(&hash, &w->word[1]);
      if (!value) return -1;
      return *value;
    }
    case 1: return update(&hash, &w->word[1], &w->word[2], w->word[3]);
    default: return erase(&hash, &w->word[1]);
  }
}

SEC("call/count") __u64 count(struct words* w) {
  __u32 first = 0;
  __u64* all = lookup(&array, &first);
  __u64* own = lookup(&each, &first);
  if (!all || !own) return -1;
  __sync_fetch_and_add(all, 1);
  *own += 1;  // nobody else is on this processor
  __u64 key = w->word[0], one = 1;
  __u64* found = lookup(&hash, &key);
  if (found) __sync_fetch_and_add(found, 1);
  else if (update(&hash, &key, &one, 1) != 0) {
    found = lookup(&hash, &key);
    if (!found) return -2;
    __sync_fetch_and_add(found, 1);
  }
  return processor();
}

SEC("call/ring") __u64 on_ring(struct words* w) {
  switch (w->word[0]) {
    case 0: return output(&ring, &w->word[1], w->word[2], 0);
    case 1: {
      __u64* record = reserve(&ring, 16, 0);
      if (!record) return -1;
      record[0] = w->word[1];
      record[1] = w->word[2];
      if (w->word[3]) discard(record, 0);
      else submit(record, 0);
      return 0;
    }
    default: return query(&ring, w->word[1]);
  }
}

SEC("call/time") __u64 time_now(void) { return ktime(); }

SEC("call/random") __u64 random_now(void) { return prandom(); }

static const char format[] = "%d is %s, %llx\n";
static const char text[] = "text";
SEC("call/trace") __u64 traced(void) { return trace(format, sizeof format, -5, text, 0x123456789abull); }

volatile __u64 forever = 1;
SEC("call/loop") __u64 loop(void) {
  while (forever) {}
  return 0;
}

// Holds the lock of the hash map, most of the time.
SEC("call/busy") __u64 busy(void) {
  __u64 key = 7;
  while (forever) lookup(&hash, &key);
  return 0;
}

static __attribute__((noinline)) __u64 deep(__u64 n, struct words* w) {
  volatile __u64 frame[50];
  for (int i = 0; i < 50; ++i) frame[i] = n + i;
  return frame[n & 31] + w->word[0];
}
SEC("call/deep") __u64 nested(struct words* w) { return deep(3, w) + deep(4, w); }
