// A bank whose pages hold garbage until they are brought, like those of a snapshot file that is read lazily.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

#include "guest-mm/bank.hpp"

namespace ramet::mm::test {

class LatePages final : public PageSource {
 public:
  LatePages(Memory& memory, std::uint64_t pages) : there_(pages) {
    file_ = *MemoryFile::create(pages * kPageSize);
    file_->close();
    void* at = ::mmap(nullptr, pages * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, file_->descriptor(), 0);
    bytes_ = {static_cast<std::byte*>(at), pages * kPageSize};
    std::memset(at, 0xee, bytes_.size());
    bank_ = *memory.make_bank(bytes_, [] {}, {.file = file_, .offset = 0, .bytes = bytes_.size()}, this);
  }
  ~LatePages() override {
    bank_.reset();
    ::munmap(bytes_.data(), bytes_.size());
  }

  // A layer for an address space to stand on; and where its frames lie.
  std::shared_ptr<Layer> layer() const {
    auto layer = std::make_shared<Layer>();
    layer->data = bank_;
    layer->data_parts = {{bank_->base(), bank_->end()}};
    return layer;
  }
  Gpa base() const { return bank_->base(); }
  // The value of every byte of the page, once it was brought.
  static std::byte byte_of(std::uint64_t page) { return static_cast<std::byte>(page % 199 + 1); }
  std::uint64_t brought() const { return brought_.load(); }

  void bring(std::uint64_t start, std::uint64_t end) override {
    for (std::uint64_t page = start / kPageSize; page * kPageSize < end; ++page) {
      if (there_[page].load()) continue;
      std::memset(bytes_.data() + page * kPageSize, std::to_integer<int>(byte_of(page)), kPageSize);
      there_[page].store(true);
      ++brought_;
    }
  }
  Range there(std::uint64_t at, Range within) const override {
    std::uint64_t first = at / kPageSize, last = first + 1;
    if (!there_[first].load()) return {at, at};
    while (first * kPageSize > within.start && there_[first - 1].load()) --first;
    while (last * kPageSize < within.end && there_[last].load()) ++last;
    return {first * kPageSize, last * kPageSize};
  }

 private:
  std::shared_ptr<MemoryFile> file_;
  std::span<std::byte> bytes_;
  std::vector<std::atomic<bool>> there_;
  std::atomic<std::uint64_t> brought_{0};
  std::shared_ptr<Bank> bank_;
};

}  // namespace ramet::mm::test
