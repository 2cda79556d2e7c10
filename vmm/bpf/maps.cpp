#include "vmm/bpf/maps.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstddef>

namespace ramet::vmm::bpf {
namespace {

using mm::Prot;

constexpr std::uint64_t up8(std::uint64_t n) { return mm::align_up(n, 8); }

struct Layout {
  struct map header{};
  std::uint64_t data = 0, heads = 0;  // bytes
};

// Errors: a sentence.
std::expected<Layout, std::string> lay_out(const jit::MapDefinition& d) {
  Layout l;
  struct map& m = l.header;
  m.type = d.type, m.key_size = d.key_size, m.value_size = d.value_size, m.max_entries = d.max_entries;
  switch (d.type) {
    case BPF_MAP_TYPE_ARRAY:
    case BPF_MAP_TYPE_PERCPU_ARRAY:
      if (d.key_size != 4) return std::unexpected("keys of arrays have 4 bytes");
      if (d.value_size == 0) return std::unexpected("its values have no size");
      if (d.max_entries == 0) return std::unexpected("it has no entries");
      m.stride = static_cast<std::uint32_t>(up8(d.value_size));
      if (m.stride < d.value_size) return std::unexpected("its values are too large");
      m.vcpu_stride = std::uint64_t{m.stride} * d.max_entries;
      l.data = d.type == BPF_MAP_TYPE_ARRAY ? m.vcpu_stride : 0;
      if (d.type == BPF_MAP_TYPE_PERCPU_ARRAY &&
          __builtin_mul_overflow(m.vcpu_stride, std::uint64_t{MOST_VCPUS}, &l.data))
        return std::unexpected("it is too large");
      return l;
    case BPF_MAP_TYPE_HASH: {
      if (d.key_size == 0 || d.value_size == 0) return std::unexpected("its keys or values have no size");
      if (d.max_entries == 0 || d.max_entries > 1u << 30) return std::unexpected("a hash has 1 to 2^30 entries");
      const std::uint64_t value = sizeof(struct entry) + up8(d.key_size), stride = value + up8(d.value_size);
      if (stride > 1u << 30) return std::unexpected("its keys or values are too large");
      m.value_offset = static_cast<std::uint32_t>(value), m.stride = static_cast<std::uint32_t>(stride);
      const std::uint64_t heads = std::bit_ceil(std::uint64_t{d.max_entries});
      m.mask = static_cast<std::uint32_t>(heads - 1);
      l.data = stride * d.max_entries, l.heads = heads * sizeof(std::uint32_t);
      return l;
    }
    case BPF_MAP_TYPE_RINGBUF:
      if (d.max_entries < mm::kPageSize || !std::has_single_bit(d.max_entries))
        return std::unexpected("a ring buffer's size is a power of two from 4096 on");
      m.mask = d.max_entries - 1;
      l.data = d.max_entries;
      return l;
    default:
      return std::unexpected(
          fmt::format("maps of type {} are not served; array (2), hash (1), per-CPU array (6) and ring buffer (27) are",
                      d.type));
  }
}

Failure no_map(const jit::MapDefinition& d, std::string_view why) {
  return {fmt::format("map {}: {}", d.name, why), 126};
}

}  // namespace

std::expected<Map, Failure> make_map(mm::AddressSpace& space, const jit::MapDefinition& d) {
  auto l = lay_out(d);
  if (!l) return std::unexpected(no_map(d, l.error()));
  if (d.contents.size() > l->data) return std::unexpected(no_map(d, "its contents are larger than itself"));
  constexpr std::uint64_t kMost = std::uint64_t{1} << 40;
  const std::uint64_t data = mm::align_up(l->data, mm::kPageSize);
  Map map{
      .name = d.name, .type = d.type, .key_size = d.key_size, .value_size = d.value_size, .max_entries = d.max_entries};
  map.bytes = mm::kPageSize + data + mm::align_up(l->heads, mm::kPageSize);
  if (l->data > kMost || map.bytes > space.limit_bytes())
    return std::unexpected(no_map(d, fmt::format("{} MiB are more than the guest's memory", l->data >> 20)));
  const auto at = space.map({.length = map.bytes, .prot = Prot::Read | Prot::Write, .name = "[bpf map]"});
  if (!at) return std::unexpected(no_map(d, mm::describe(at.error())));
  map.header = *at, map.data = *at + mm::kPageSize;
  l->header.data = map.data;
  l->header.heads = map.data + data;
  auto done = space.write(map.header, std::as_bytes(std::span(&l->header, 1)));
  if (done && !d.contents.empty()) done = space.write(map.data, d.contents);
  if (done) return map;
  drop_map(space, map);
  return std::unexpected(no_map(d, mm::describe(done.error())));
}

Status finish_map(mm::AddressSpace& space, const jit::MapDefinition& d, const Map& map, std::span<const Map> maps) {
  const auto failed = [&](mm::Error e) { return std::unexpected(no_map(d, mm::describe(e))); };
  for (const auto& p : d.pointers) {
    if (p.map >= maps.size() || p.at > d.contents.size() || d.contents.size() - p.at < 8)
      return std::unexpected(no_map(d, "an address in its contents leads nowhere"));
    const std::uint64_t value = maps[p.map].data + p.offset;
    if (auto written = space.write(map.data + p.at, std::as_bytes(std::span(&value, 1))); !written)
      return failed(written.error());
  }
  if (!d.read_only) return {};
  if (auto closed = space.protect(map.data, map.bytes - mm::kPageSize, Prot::Read); !closed)
    return failed(closed.error());
  return {};
}

void drop_map(mm::AddressSpace& space, const Map& map) {
  (void)space.unmap(map.header, map.bytes);  // no memory to split what is around it: then it stays until the guest goes
}

void unlock_map(mm::AddressSpace& space, const Map& map, std::uint32_t vcpu) {
  if (map.type != BPF_MAP_TYPE_HASH && map.type != BPF_MAP_TYPE_RINGBUF) return;
  auto lock = space.word(map.header + offsetof(struct map, lock));
  if (!lock) return;  // the guest has no memory for a page of its own: nor has it for anything else
  if (vcpu != ~0u) {
    (void)lock->compare_exchange(vcpu + 1, 0);
    return;
  }
  if (const auto holder = lock->load()) (void)lock->compare_exchange(*holder, 0);
}

std::expected<std::vector<std::vector<std::byte>>, Failure> consume_ring(mm::AddressSpace& space, const Map& map) {
  constexpr std::uint32_t kBusy = 1u << 31, kDiscard = 1u << 30, kHeader = 8;
  if (map.type != BPF_MAP_TYPE_RINGBUF) return failure(fmt::format("map {} is no ring buffer", map.name));
  const std::uint64_t mask = map.max_entries - 1;
  std::uint64_t positions[2];
  const mm::Gva at = map.header + offsetof(struct map, consumed);
  if (!space.read(at, std::as_writable_bytes(std::span(positions))))
    return failure(fmt::format("map {} cannot be read", map.name));
  auto [consumed, produced] = positions;
  std::vector<std::vector<std::byte>> records;
  // Positions and lengths are the guest's to write: a wrong one ends what can be read.
  if (produced - consumed > map.max_entries || consumed % 8 != 0)
    return failure(fmt::format("map {}: its positions were overwritten", map.name));
  while (consumed != produced) {
    const auto header = space.word(map.data + (consumed & mask), mm::Access::Read);
    const auto word = header ? header->load() : mm::fail(header.error());
    if (!word) return failure(fmt::format("map {} cannot be read", map.name));
    if (*word & kBusy) break;
    const std::uint64_t length = *word & ~kDiscard, whole = up8(kHeader + length);
    if (whole > produced - consumed || (consumed & mask) + whole > map.max_entries)
      return failure(fmt::format("map {}: a record's length was overwritten", map.name));
    if (!(*word & kDiscard)) {
      std::vector<std::byte> record(length);
      if (!space.read(map.data + (consumed & mask) + kHeader, record))
        return failure(fmt::format("map {} cannot be read", map.name));
      records.push_back(std::move(record));
    }
    consumed += whole;
  }
  if (!space.write(at, std::as_bytes(std::span(&consumed, 1))))
    return failure(fmt::format("map {} cannot be written", map.name));
  return records;
}

}  // namespace ramet::vmm::bpf
