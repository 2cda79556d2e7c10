// Arguments from bytes: numbers, pointers, and structures in the guest's memory. When no bytes are left they are
// zeroes.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "guest-mm/address_space.hpp"
#include "tests/fuzz/system_calls/arena.hpp"
#include "tests/fuzz/system_calls/shapes.hpp"

namespace ramet::fuzz {

inline constexpr int kFirstId = 1000;       // the first process's id

class Values {
 public:
  std::uint8_t u8();
  Word little_endian(int bytes);
  template <class List>
  auto pick(const List& list) {
    return list[u8() % std::size(list)];
  }
  bool wrong() { return u8() >= 0xf4; }     // now and then, anything instead of what is asked for

  Word value(const Shape&);
  Word scalar();
  Word fd();
  Word id();
  Word size();
  Word offset() { return u8() < 0x60 ? size() : scalar(); }
  Gva pointer();
  Gva page();

  // Each goes to the next place in the thread's part of the buffer, which is used round and round.
  Gva room(Word bytes);
  Gva put(std::span<const std::byte>);
  Gva put(const std::string& text) { return put(std::as_bytes(std::span(text.c_str(), text.size() + 1))); }
  template <class T>
  Gva put_all(const std::vector<T>& values) {
    return put(std::as_bytes(std::span(values)));
  }
  Gva path();
  Gva times();
  Gva iov(unsigned& pieces);

  void gave(Word result) { recent_[recent_at_++ % recent_.size()] = result; }
  void opened(Word fd) { opened_[opened_at_++ % opened_.size()] = fd; }

 protected:
  void use_part(unsigned n) { part_ = next_ = kBuffer + n % (kBufferBytes / kPartBytes) * kPartBytes; }
  std::span<const std::uint8_t> bytes_;
  mm::AddressSpace* memory_ = nullptr;      // of the machine that runs it now
  Word count_ = 4;                          // of the vector that was made last, for the argument after it

 private:
  Word extreme(std::uint8_t);
  Word set_value();
  Gva message();
  Gva socket_name();
  Gva strings();
  Gva action();

  Gva part_ = kBuffer, next_ = kBuffer;
  std::array<Word, 8> recent_{};            // what calls gave
  std::array<Word, 4> opened_{3, 4, 15, 16};  // descriptors that they gave
  unsigned recent_at_ = 0, opened_at_ = 0;
};

}  // namespace ramet::fuzz
