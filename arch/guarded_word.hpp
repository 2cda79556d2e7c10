// Guarded accesses (arch/guarded.hpp) of one word of any size, each a single access, for software CPUs, which carry out
// a guest's loads and stores. Ordered as x86-64's loads and stores; compare-and-exchange is a full barrier.
#pragma once

#include <cstdint>

#include "arch/guarded.hpp"

namespace ramet::arch {

extern "C" {
RametGuarded ramet_guarded_load_8(const void*);
RametGuarded ramet_guarded_load_16(const void*);
RametGuarded ramet_guarded_load_32(const void*);
RametGuarded ramet_guarded_load_64(const void*);
RametGuarded ramet_guarded_store_8(void*, std::uint64_t value);
RametGuarded ramet_guarded_store_16(void*, std::uint64_t value);
RametGuarded ramet_guarded_store_32(void*, std::uint64_t value);
RametGuarded ramet_guarded_store_64(void*, std::uint64_t value);
// `value` returns what was there. Precondition: aligned.
RametGuarded ramet_guarded_exchange_8(void*, std::uint64_t expected, std::uint64_t desired);
RametGuarded ramet_guarded_exchange_16(void*, std::uint64_t expected, std::uint64_t desired);
RametGuarded ramet_guarded_exchange_32(void*, std::uint64_t expected, std::uint64_t desired);
RametGuarded ramet_guarded_exchange_64(void*, std::uint64_t expected, std::uint64_t desired);
// For two words, aligned to 16. `expected` is replaced by what was there; `value` is 1 if they were exchanged.
RametGuarded ramet_guarded_exchange_128(void*, std::uint64_t expected[2], const std::uint64_t desired[2]);
// One access of 16 bytes, if aligned, where an x86-64 processor has AVX. Otherwise two.
RametGuarded ramet_guarded_load_128(const void*, std::uint64_t to[2]);
RametGuarded ramet_guarded_store_128(void*, const std::uint64_t from[2]);
}

}  // namespace ramet::arch
