// Host mappings that guests ask for. The host's kernel allows each of its processes so many (vm.max_map_count); when
// they are used up the VMM's own heap cannot grow either. So guests are told ENOMEM before: all families of this
// process of the host together may have half of them, one family a quarter. The rest is for memory of VMs, layers,
// vCPUs and stacks.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "guest-mm/account.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {

// How many host mappings a family has, and may have. Thread-safe.
class HostMappings {
 public:
  explicit HostMappings(std::uint64_t most = host_limit() / 4) : own_(most) {}
  // Reserves n of them. False: the family or all families together would have too many.
  bool take(std::uint64_t n);
  void give(std::uint64_t n);
  std::uint64_t count() const { return own_.total(); }
  std::uint64_t most() const { return own_.limit(); }
  static std::uint64_t host_limit();            // vm.max_map_count; Linux's default if it cannot be read

 private:
  static mm::Account& all();
  mm::Account own_;
};

// n reserved host mappings, given back by the destructor. False: they could not be had.
class MappingPlaces {
 public:
  MappingPlaces(std::shared_ptr<HostMappings> of, std::uint64_t n) : of_(std::move(of)), n_(of_->take(n) ? n : 0) {}
  ~MappingPlaces() { of_->give(n_); }
  MappingPlaces(const MappingPlaces&) = delete;
  MappingPlaces& operator=(const MappingPlaces&) = delete;
  explicit operator bool() const { return n_ > 0; }

 private:
  const std::shared_ptr<HostMappings> of_;
  const std::uint64_t n_;
};

// A shared mapping of the host's, unmapped by the destructor.
class HostMapping {
 public:
  // As mmap(2) with MAP_SHARED and MAP_NORESERVE; fd -1: anonymous. Errors: ENOMEM (HostMappings refuses), those of
  // mmap(2).
  static OrErrno<std::shared_ptr<HostMapping>> make(std::shared_ptr<HostMappings>, std::uint64_t length, int prot,
                                                    int fd, off_t offset);
  explicit HostMapping(std::shared_ptr<HostMappings> of) : place_(std::move(of), 1) {}
  ~HostMapping();
  HostMapping(const HostMapping&) = delete;
  HostMapping& operator=(const HostMapping&) = delete;
  std::span<std::byte> bytes() const { return bytes_; }

 private:
  const MappingPlaces place_;
  std::span<std::byte> bytes_;
};

// Sets bit 0 in out[i] if page i of the mapping, counted from `offset`, is in the host's memory.
void add_residency(std::span<std::byte> mapped, std::uint64_t offset, std::span<std::uint8_t> out);

}  // namespace ramet::vmm
