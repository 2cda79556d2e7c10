// Guarded accesses (arch/guarded.hpp) of one word of any size, each a single access, for whoever carries out other
// processors' loads and stores. Fully ordered as x86-64's own are; the compare and exchange is a full barrier.
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
// `value`: what was there. Aligned.
RametGuarded ramet_guarded_exchange_8(void*, std::uint64_t expected, std::uint64_t desired);
RametGuarded ramet_guarded_exchange_16(void*, std::uint64_t expected, std::uint64_t desired);
RametGuarded ramet_guarded_exchange_32(void*, std::uint64_t expected, std::uint64_t desired);
RametGuarded ramet_guarded_exchange_64(void*, std::uint64_t expected, std::uint64_t desired);
// Of two words, aligned to 16. `expected` is replaced by what was there; `value`: 1 if it was exchanged.
RametGuarded ramet_guarded_exchange_128(void*, std::uint64_t expected[2], const std::uint64_t desired[2]);
// One access of 16 bytes, if aligned, where an x86-64 processor has AVX. Otherwise two.
RametGuarded ramet_guarded_load_128(const void*, std::uint64_t to[2]);
RametGuarded ramet_guarded_store_128(void*, const std::uint64_t from[2]);
}

}  // namespace ramet::arch
