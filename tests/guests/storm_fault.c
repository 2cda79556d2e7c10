// Page faults in many threads: in mappings of their own, in one mapping, in a private file mapping.
#include "storm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// Each thread maps, writes one word a page, reads it back, unmaps. An operation is a page.
static void page_fault(struct thread* t) {
  enum { kPages = 256 };
  for (int r = 0; r < rounds; ++r) {
    uint64_t* base = map_pages(kPages);
    for (size_t i = 0; i < kPages; ++i) *page_at(base, i) = stamp((uint64_t)t->id, (uint64_t)r * kPages + i);
    for (size_t i = 0; i < kPages; ++i) {
      volatile uint64_t* page = page_at(base, i);
      want(t, "a word just written", page[0], stamp((uint64_t)t->id, (uint64_t)r * kPages + i));
      want(t, "the rest of a new page", page[kWords - 1], 0);
      t->sum += page[0];
    }
    unmap_pages(base, kPages);
    t->operations += kPages;
  }
}

// All threads share one mapping of 4 KiB pages, which takes turns: page i belongs to thread i % threads. Between
// rounds it is emptied, by MADV_DONTNEED or by a new mapping in its place.
static uint64_t* shared;
static const size_t shared_pages = 1024;

static void prepare_shared(void) {
  shared = map_pages(shared_pages);
  advise_pages(shared, shared_pages, MADV_NOHUGEPAGE);
}

static void page_fault_shared(struct thread* t) {
  size_t step = (size_t)threads;
  for (int r = 0; r < rounds; ++r) {
    for (size_t i = (size_t)t->id; i < shared_pages; i += step, ++t->operations)
      *page_at(shared, i) = stamp((uint64_t)r, i);
    meet();
    // What another thread wrote.
    for (size_t i = (size_t)(t->id + 1) % step; i < shared_pages; i += step) {
      want(t, "a word that a neighbour wrote", *page_at(shared, i), stamp((uint64_t)r, i));
      want(t, "the rest of its page", page_at(shared, i)[kWords - 1], 0);
      t->sum += *page_at(shared, i);
    }
    meet();
    if (t->id == 0) {
      if (r % 2) {
        advise_pages(shared, shared_pages, MADV_DONTNEED);
      } else {
        void* again = mmap(shared, shared_pages * kPage, kRW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (again != shared) fail("mmap over the shared mapping: %s", strerror(errno));
        advise_pages(shared, shared_pages, MADV_NOHUGEPAGE);
      }
    }
    meet();
    for (size_t i = (size_t)t->id; i < shared_pages; i += step) want(t, "an emptied page", *page_at(shared, i), 0);
    meet();
  }
}

// Each thread maps the file ARGUMENT privately, reads all of it, and writes every third page: neither the file
// nor any other mapping may see that.
static int file;
enum { kFilePages = 64 };

static uint64_t in_file(size_t page, size_t word) { return stamp(page, word + 1); }

static void prepare_file(void) {
  if (!argument) fail("the path of a file to make is missing");
  file = open(argument, O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (file < 0) fail("%s: %s", argument, strerror(errno));
  uint64_t page[kWords];
  for (size_t i = 0; i < kFilePages; ++i) {
    for (size_t w = 0; w < kWords; ++w) page[w] = in_file(i, w);
    if (write(file, page, sizeof page) != kPage) fail("%s: %s", argument, strerror(errno));
  }
}

static void page_fault_file(struct thread* t) {
  for (int r = 0; r < rounds; ++r) {
    uint64_t* base = mmap(NULL, kFilePages * kPage, kRW, MAP_PRIVATE, file, 0);
    if (base == MAP_FAILED) fail("mmap of the file: %s", strerror(errno));
    size_t first = (size_t)(t->id + r) % 3;
    for (size_t i = first; i < kFilePages; i += 3) page_at(base, i)[5] = stamp((uint64_t)t->id, (uint64_t)r);
    for (size_t i = 0; i < kFilePages; ++i, ++t->operations)
      for (size_t w = 0; w < kWords; ++w) {
        uint64_t wanted = i % 3 == first && w == 5 ? stamp((uint64_t)t->id, (uint64_t)r) : in_file(i, w);
        want(t, "a word of the file's mapping", page_at(base, i)[w], wanted);
        t->sum += wanted;
      }
    unmap_pages(base, kFilePages);
  }
}

static void finish_file(void) {
  uint64_t page[kWords];
  for (size_t i = 0; i < kFilePages; ++i) {
    if (pread(file, page, sizeof page, (off_t)(i * kPage)) != kPage) fail("%s: %s", argument, strerror(errno));
    for (size_t w = 0; w < kWords; ++w)
      if (page[w] != in_file(i, w)) fail("a private write reached page %zu of the file", i);
  }
  close(file);
}

const struct storm_case fault_cases[] = {
    {"page_fault", NULL, page_fault, NULL},
    {"page_fault_shared", prepare_shared, page_fault_shared, NULL},
    {"page_fault_file", prepare_file, page_fault_file, finish_file},
    {0},
};
