// Maps described by BTF, global data of each kind with an address in it, and calls across sections.
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) value* name

struct pair {
  __u32 a;
  __u64 b;
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1000);
  __type(key, __u32);
  __type(value, struct pair);
} by_number SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
} events SEC(".maps");

static void* (*lookup)(void* map, const void* key) = (void*)1;

const volatile __u64 step = 3;
__u64 count = 40;
__u64 zeroes[8];
__u64* where = &zeroes[2];

__attribute__((noinline)) __u64 twice(__u64 value) {
  __asm__ volatile("" : "+r"(value));
  return value * 2;
}
static __attribute__((noinline)) __u64 thrice(__u64 value) {
  __asm__ volatile("" : "+r"(value));
  return twice(value) + value;
}

SEC("first") __u64 found(void* context) {
  __u32 key = 7;
  struct pair* p = lookup(&by_number, &key);
  return p ? p->b : twice(count);
}

SEC("second") __u64 data(void* context) {
  count += step;
  *where = count;
  zeroes[0] = thrice(zeroes[2]);
  return lookup(&events, 0) ? 0 : zeroes[0];
}

char _license[] SEC("license") = "Dual BSD/GPL";
