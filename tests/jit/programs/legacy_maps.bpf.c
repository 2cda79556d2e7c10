// Maps as they were defined before BTF.
#define SEC(name) __attribute__((section(name), used))

struct bpf_map_def {
  unsigned type, key_size, value_size, max_entries, map_flags;
};
struct bpf_map_def SEC("maps") first = {2, 4, 8, 16, 0};
struct bpf_map_def SEC("maps") second = {1, 8, 24, 100, 1};

static void* (*lookup)(void* map, const void* key) = (void*)1;

SEC("legacy") unsigned long long both(void* context) {
  unsigned long long key = 1;
  return lookup(&first, &key) == lookup(&second, &key);
}
