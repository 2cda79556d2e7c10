// What bench_jit runs: compiled by clang for eBPF and from there by jit/, and by gcc -O2 for the host. Each takes its memory
// and a count, and returns what it computed.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef __bpf__
static u64 (*helper)(u64) = (void*)1;
#else
extern u64 helper(u64);
#endif

u64 xorshift64(void* memory, u64 count) {
  u64 x = *(u64*)memory | 1;
  for (; count; count--) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
  }
  return x;
}

u64 xorshift32(void* memory, u64 count) {
  u32 x = *(u32*)memory | 1;
  for (; count; count--) {
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
  }
  return x;
}

// 32 MiB of words, each of which says nothing about the next.
u64 reads(void* memory, u64 count) {
  const u64* words = memory;
  u64 at = 1, sum = 0;
  for (; count; count--) {
    at = at * 6364136223846793005u + 1442695040888963407u;
    sum += words[at >> 42];
  }
  return sum;
}

u64 collatz(void* memory, u64 count) {
  (void)memory;
  u64 steps = 0;
  for (u64 first = 1; first <= count; first++)
    for (u64 n = first; n != 1; steps++) n = n & 1 ? 3 * n + 1 : n / 2;
  return steps;
}

// A sequence of headers: a byte of kind, two of length, and what the kind says.
u64 packets(void* memory, u64 count) {
  const u8* byte = memory;
  u64 state = 0, sum = 0;
  for (u64 at = 0; at < count; at++) {
    const u8 c = byte[at & 65535];
    switch (state) {
      case 0: state = c < 64 ? 1 : c < 128 ? 2 : c < 200 ? 3 : 0; break;
      case 1: sum += c; state = c & 1 ? 2 : 0; break;
      case 2: sum ^= (u64)c << 8; state = c > 100 ? 3 : 1; break;
      default: sum = sum * 3 + c; state = 0; break;
    }
  }
  return sum;
}

u64 crc32(void* memory, u64 count) {
  const u32* table = memory;  // of 256 words
  const u8* byte = (const u8*)memory + 1024;
  u32 crc = ~0u;
  for (u64 at = 0; at < count; at++) crc = table[(crc ^ byte[at & 4095]) & 255] ^ crc >> 8;
  return ~crc;
}

#define ROTATE(x, n) ((x) >> (n) | (x) << (32 - (n)))

// Rounds of SHA-256 over blocks; the schedule is computed in place, in 16 words.
u64 sha256(void* memory, u64 count) {
  const u32* k = memory;             // 64 words
  u32* w = (u32*)memory + 64;        // 16 words
  u32 a = 0x6a09e667, b = 0xbb67ae85, c = 0x3c6ef372, d = 0xa54ff53a, e = 0x510e527f, f = 0x9b05688c, g = 0x1f83d9ab, h = 0x5be0cd19;
  for (; count; count--)
    for (u64 t = 0; t < 64; t++) {
      const u32 w15 = w[(t + 1) & 15], w2 = w[(t + 14) & 15];
      const u32 s0 = ROTATE(w15, 7) ^ ROTATE(w15, 18) ^ w15 >> 3, s1 = ROTATE(w2, 17) ^ ROTATE(w2, 19) ^ w2 >> 10;
      w[t & 15] += s0 + w[(t + 9) & 15] + s1;
      const u32 t1 = h + (ROTATE(e, 6) ^ ROTATE(e, 11) ^ ROTATE(e, 25)) + ((e & f) ^ (~e & g)) + k[t] + w[t & 15];
      const u32 t2 = (ROTATE(a, 2) ^ ROTATE(a, 13) ^ ROTATE(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
  return a ^ b ^ c ^ d ^ e ^ f ^ g ^ h;
}

u64 helpers(void* memory, u64 count) {
  (void)memory;
  u64 sum = 0;
  for (; count; count--) sum += helper(sum ^ count);
  return sum;
}
