// A list to which elements are added without fail once capacity is reserved for them. That is done before an entry is
// changed, so that the change can always be recorded. Up to kFew elements are stored in the list itself.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

namespace ramet::mm {

template <class T, std::size_t kFew>
class ReservedList {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  ReservedList() = default;
  ReservedList(const ReservedList&) = delete;
  ReservedList& operator=(const ReservedList&) = delete;

  // Reserves capacity for `more` elements. Throws std::bad_alloc; the list is then as it was.
  void reserve(std::size_t more) {
    if (more > capacity() - size_) grow(more);
  }
  // Without reserved capacity, throws as reserve() does.
  void add(const T& element) {
    reserve(1);
    data()[size_++] = element;
  }
  template <std::size_t kOther>
  void add_all(const ReservedList<T, kOther>& other) {
    for (const T& element : other.all()) add(element);
  }
  void resize_down(std::size_t size) { size_ = size; }
  void clear() { size_ = 0; }
  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }
  T& back() { return data()[size_ - 1]; }
  std::span<T> all() { return {data(), size_}; }
  std::span<const T> all() const { return {many_.empty() ? few_.data() : many_.data(), size_}; }

 private:
  T* data() { return many_.empty() ? few_.data() : many_.data(); }
  std::size_t capacity() const { return many_.empty() ? kFew : many_.size(); }
  void grow(std::size_t more) {
    std::vector<T> larger(std::max(2 * capacity(), size_ + more));
    std::ranges::copy(all(), larger.begin());
    many_.swap(larger);
  }
  std::size_t size_ = 0;
  std::array<T, kFew> few_;  // the first size_ are set
  std::vector<T> many_;  // used instead once few_ was too small
};

}  // namespace ramet::mm
