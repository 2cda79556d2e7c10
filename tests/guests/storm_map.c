// mmap, munmap, mremap and madvise: each thread works on memory of its own, and checks every word of it.
#include "storm.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

// Maps a few pages and unmaps them. Every 16th mapping is written from end to end, and must not be another
// thread's as well. An operation is such a pair.
static void map_and_unmap(struct thread* t) {
  for (int r = 0; r < rounds; ++r, ++t->operations) {
    size_t pages = 1 + next_random(t) % 16;
    uint64_t* base = map_pages(pages);
    if (r % 16 == 0) {
      for (size_t w = 0; w < pages * kWords; ++w) {
        want(t, "a word of a new mapping", base[w], 0);
        base[w] = stamp((uint64_t)t->id, w);
      }
      for (size_t w = 0; w < pages * kWords; ++w) want(t, "a word just written", base[w], stamp((uint64_t)t->id, w));
      t->sum += pages;
    }
    unmap_pages(base, pages);
  }
}

// --- mremap ---

enum { kSlot = 32, kSlots = 3, kMoved = 16 };
static char* arena;  // kSlots places a thread; nobody maps "anywhere" meanwhile, so that a hole stays a hole

static void prepare_arena(void) {
  arena = (char*)map_pages((size_t)threads * kSlots * kSlot);
  protect_pages(arena, (size_t)threads * kSlots * kSlot, PROT_NONE);
}

static uint64_t* slot_at(const struct thread* t, size_t slot) {
  return (uint64_t*)(arena + ((size_t)t->id * kSlots + slot) * kSlot * kPage);
}

// Moves from slot to slot, in turn growing, shrinking, and (every fourth time) leaving the old place mapped.
static void remap(struct thread* t) {
  size_t pages = kMoved, slot = 0;
  protect_pages(slot_at(t, 0), pages, kRW);
  for (int r = 0; r < rounds; ++r, ++t->operations) {
    uint64_t *from = slot_at(t, slot), *to = slot_at(t, slot = (slot + 1) % kSlots);
    for (size_t w = 0; w < pages * kWords; ++w) from[w] = stamp((uint64_t)r, w);
    int leave = r % 4 == 3;
    size_t then = leave ? pages : pages == kMoved ? kSlot : kMoved;
    int flags = MREMAP_MAYMOVE | MREMAP_FIXED | (leave ? MREMAP_DONTUNMAP : 0);
    if (mremap(from, pages * kPage, then * kPage, flags, to) != to)
      fail("mremap of %zu pages to %zu, flags %d: %s", pages, then, flags, strerror(errno));
    size_t both = (pages < then ? pages : then) * kWords;
    for (size_t w = 0; w < both; ++w) want(t, "a word that moved", to[w], stamp((uint64_t)r, w));
    for (size_t w = both; w < then * kWords; ++w) want(t, "a word of what grew", to[w], 0);
    uint64_t value = 0;
    int code = try_load(from + (pages - 1) * kWords, &value);
    want(t, "a load from the old place", (uint64_t)code, leave ? 0 : SEGV_MAPERR);
    want(t, "what is left there", value, 0);
    t->sum += to[both - 1];
    pages = then;
  }
}

// --- madvise: all threads in one 2 MiB block, eight pages each ---

enum { kOwn = 8 };
static uint64_t* block;

static void prepare_block(void) { block = map_blocks(kBlock); }

static void fill(uint64_t* own, uint64_t round) {
  for (size_t w = 0; w < kOwn * kWords; ++w) own[w] = stamp(round, w);
}

static void advise(struct thread* t) {
  uint64_t* own = block + (size_t)t->id * kOwn * kWords;
  for (int r = 0; r < rounds; ++r, ++t->operations) {
    uint64_t round = (uint64_t)r;
    size_t first = next_random(t) % kOwn, count = 1 + next_random(t) % (kOwn - first);
    size_t begin = first * kWords, end = (first + count) * kWords;
    fill(own, round);
    advise_pages(own + begin, count, MADV_DONTNEED);
    for (size_t w = 0; w < kOwn * kWords; ++w)
      want(t, "a word after MADV_DONTNEED", own[w], w >= begin && w < end ? 0 : stamp(round, w));
    // MADV_FREE takes a page whenever it likes, but the whole of it, and not once it was written again.
    fill(own, round + 1);
    advise_pages(own + begin, count, MADV_FREE);
    for (size_t w = 0; w < kOwn * kWords; ++w) {
      uint64_t found = *(volatile uint64_t*)(own + w);
      int was_taken = w >= begin && w < end && found == 0;
      if (!was_taken) want(t, "a word after MADV_FREE", found, stamp(round + 1, w));
      while (was_taken && (w + 1) % kWords) want(t, "the rest of a page that was taken", own[++w], 0);
    }
    for (size_t i = first; i < first + count; ++i) *page_at(own, i) = stamp(round + 2, i);
    for (size_t i = first; i < first + count; ++i)
      want(t, "a word written since", *page_at(own, i), stamp(round + 2, i));
    t->sum += *page_at(own, first);
  }
}

const struct storm_case map_cases[] = {
    {"mmap", NULL, map_and_unmap, NULL},
    {"remap", prepare_arena, remap, NULL},
    {"advise", prepare_block, advise, NULL},
    {0},
};
