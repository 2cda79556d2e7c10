#include "jit/btf.hpp"

#include <linux/btf.h>

#include <cstring>
#include <string_view>

namespace ramet::jit {
namespace {

using Failed = std::unexpected<std::string>;

constexpr unsigned kLongestChain = 32;  // of types that refer to one another

Failed damaged_btf(const std::string& what) { return Failed("the object's BTF is damaged: " + what); }

struct Type {
  btf_type head;
  std::span<const std::byte> rest;  // members, variables, an array's description

  unsigned kind() const { return BTF_INFO_KIND(head.info); }
  unsigned count() const { return BTF_INFO_VLEN(head.info); }
  template <class T>
  T at(unsigned index) const {
    T value;
    std::memcpy(&value, rest.data() + index * sizeof(T), sizeof(T));
    return value;
  }
};

// How many bytes follow a type's head. Errors: an unknown kind.
std::expected<std::size_t, std::string> rest_of(unsigned kind, unsigned count) {
  switch (kind) {
    case BTF_KIND_INT:
    case BTF_KIND_VAR:
    case BTF_KIND_DECL_TAG: return 4;
    case BTF_KIND_ARRAY: return sizeof(btf_array);
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION: return count * sizeof(btf_member);
    case BTF_KIND_ENUM: return count * sizeof(btf_enum);
    case BTF_KIND_FUNC_PROTO: return count * sizeof(btf_param);
    case BTF_KIND_DATASEC: return count * sizeof(btf_var_secinfo);
    case BTF_KIND_ENUM64: return count * std::size_t{12};
    case BTF_KIND_PTR:
    case BTF_KIND_FWD:
    case BTF_KIND_TYPEDEF:
    case BTF_KIND_VOLATILE:
    case BTF_KIND_CONST:
    case BTF_KIND_RESTRICT:
    case BTF_KIND_FUNC:
    case BTF_KIND_FLOAT:
    case BTF_KIND_TYPE_TAG: return 0;
    default: return damaged_btf("a type of kind " + std::to_string(kind));
  }
}

class Btf {
 public:
  std::expected<std::vector<BtfMap>, std::string> maps(std::span<const std::byte> bytes);

 private:
  std::expected<void, std::string> read(std::span<const std::byte> bytes);
  std::string_view name(std::uint32_t at) const {
    if (at >= strings_.size()) return {};
    const char* start = reinterpret_cast<const char*>(strings_.data()) + at;
    return {start, strnlen(start, strings_.size() - at)};
  }
  const Type* type(std::uint32_t number) const {
    return number > 0 && number <= types_.size() ? &types_[number - 1] : nullptr;
  }
  // The type without typedef, const and the like; null: there is none.
  const Type* plain(std::uint32_t number) const {
    const Type* t = type(number);
    for (unsigned n = 0; t && n < kLongestChain; ++n) switch (t->kind()) {
        case BTF_KIND_TYPEDEF:
        case BTF_KIND_VOLATILE:
        case BTF_KIND_CONST:
        case BTF_KIND_RESTRICT:
        case BTF_KIND_TYPE_TAG: t = type(t->head.type); break;
        default: return t;
      }
    return nullptr;
  }
  // The type that a pointer leads to; null: no pointer.
  const Type* pointed_to(std::uint32_t number) const {
    const Type* t = plain(number);
    return t && t->kind() == BTF_KIND_PTR ? plain(t->head.type) : nullptr;
  }
  // In bytes; 0: the type has no size, or one of more than 4 GiB.
  std::uint64_t size_of(const Type* t) const {
    std::uint64_t times = 1;
    for (unsigned n = 0; t && n < kLongestChain; ++n) switch (t->kind()) {
        case BTF_KIND_INT:
        case BTF_KIND_ENUM:
        case BTF_KIND_STRUCT:
        case BTF_KIND_UNION:
        case BTF_KIND_FLOAT:
        case BTF_KIND_ENUM64: return times * t->head.size;
        case BTF_KIND_PTR: return times * 8;
        case BTF_KIND_ARRAY: {
          const auto array = t->at<btf_array>(0);
          times *= array.nelems;
          if (times > UINT32_MAX) return 0;
          t = plain(array.type);
          break;
        }
        default: return 0;
      }
    return 0;
  }
  std::expected<MapDefinition, std::string> map(std::string_view name, const Type& structure) const;
  std::expected<void, std::string> member(MapDefinition& map, const btf_member& m) const;

  std::span<const std::byte> strings_;
  std::vector<Type> types_;
};

std::expected<void, std::string> Btf::read(std::span<const std::byte> bytes) {
  btf_header h;
  if (bytes.size() < sizeof h) return damaged_btf("it is too short");
  std::memcpy(&h, bytes.data(), sizeof h);
  if (h.magic != BTF_MAGIC || h.version != BTF_VERSION || h.hdr_len < sizeof h || h.hdr_len > bytes.size())
    return damaged_btf("its header");
  const auto rest = bytes.subspan(h.hdr_len);
  if (h.type_off > rest.size() || h.type_len > rest.size() - h.type_off || h.str_off > rest.size() ||
      h.str_len > rest.size() - h.str_off)
    return damaged_btf("its parts reach beyond its end");
  strings_ = rest.subspan(h.str_off, h.str_len);
  auto types = rest.subspan(h.type_off, h.type_len);
  while (!types.empty()) {
    Type t;
    if (types.size() < sizeof t.head) return damaged_btf("a type has no end");
    std::memcpy(&t.head, types.data(), sizeof t.head);
    const auto length = rest_of(t.kind(), t.count());
    if (!length) return Failed(length.error());
    if (*length > types.size() - sizeof t.head) return damaged_btf("a type has no end");
    t.rest = types.subspan(sizeof t.head, *length);
    types = types.subspan(sizeof t.head + *length);
    types_.push_back(t);
  }
  return {};
}

std::expected<std::vector<BtfMap>, std::string> Btf::maps(std::span<const std::byte> bytes) {
  if (auto done = read(bytes); !done) return Failed(done.error());
  std::vector<BtfMap> found;
  for (const Type& section : types_) {
    if (section.kind() != BTF_KIND_DATASEC || name(section.head.name_off) != ".maps") continue;
    for (unsigned n = 0; n < section.count(); ++n) {
      const auto place = section.at<btf_var_secinfo>(n);
      const Type* variable = type(place.type);
      if (!variable || variable->kind() != BTF_KIND_VAR) return damaged_btf("what lies in .maps is no variable");
      const std::string_view called = name(variable->head.name_off);
      const Type* structure = plain(variable->head.type);
      if (!structure || structure->kind() != BTF_KIND_STRUCT)
        return Failed("map '" + std::string(called) + "' is no structure");
      auto definition = map(called, *structure);
      if (!definition) return Failed(std::move(definition).error());
      found.push_back({*std::move(definition), place.offset});
    }
  }
  return found;
}

std::expected<MapDefinition, std::string> Btf::map(std::string_view called, const Type& structure) const {
  MapDefinition map;
  map.name = called;
  for (unsigned n = 0; n < structure.count(); ++n)
    if (auto done = member(map, structure.at<btf_member>(n)); !done) return Failed(done.error());
  return map;
}

std::expected<void, std::string> Btf::member(MapDefinition& map, const btf_member& m) const {
  const std::string_view what = name(m.name_off);
  const Type* target = pointed_to(m.type);
  const auto wrong = [&] { return Failed("map '" + map.name + "': its '" + std::string(what) + "' makes no sense"); };
  if (what == "key" || what == "value") {
    const std::uint64_t size = size_of(target);
    if (size == 0 || size > UINT32_MAX) return wrong();
    std::uint32_t& place = what == "key" ? map.key_size : map.value_size;
    if (place != 0 && place != size) return wrong();
    place = static_cast<std::uint32_t>(size);
    return {};
  }
  std::uint32_t* number = what == "type"          ? &map.type
                          : what == "key_size"    ? &map.key_size
                          : what == "value_size"  ? &map.value_size
                          : what == "max_entries" ? &map.max_entries
                          : what == "map_flags"   ? &map.flags
                                                  : nullptr;
  if (!number) return Failed("map '" + map.name + "': nothing here serves its '" + std::string(what) + "'");
  if (!target || target->kind() != BTF_KIND_ARRAY) return wrong();
  *number = target->at<btf_array>(0).nelems;
  return {};
}

}  // namespace

std::expected<std::vector<BtfMap>, std::string> maps_of_btf(std::span<const std::byte> btf) { return Btf().maps(btf); }

}  // namespace ramet::jit
