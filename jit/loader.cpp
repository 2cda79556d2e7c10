#include "jit/loader.hpp"

#include <elf.h>
#include <linux/bpf.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string_view>

#include "jit/btf.hpp"
#include "jit/elf.hpp"

namespace ramet::jit {
namespace {

using Failed = std::unexpected<std::string>;
using Done = std::expected<void, std::string>;

constexpr std::uint64_t kMostData = 64 << 20;  // of one section with global data
constexpr std::size_t kLegacyMap = 20;         // struct bpf_map_def: type, key, value, entries, flags
// Of all programs together, each of which has its own copy of the functions it calls.
constexpr std::uint64_t kMostCode = 4 * kMostInstructions;
constexpr std::uint32_t kAbsolute64 = 2;  // R_BPF_64_ABS64

// The map of a symbol. `data`: it was made of a section with global data.
struct MapPlace {
  std::uint32_t map = 0;
  bool data = false;
};

class Loader {
 public:
  explicit Loader(ElfObject& elf) : elf_(elf) {}

  std::expected<Object, std::string> run() {
    for (std::uint32_t s = 1; s < elf_.sections.size(); ++s)
      if (Done done = section(s); !done) return Failed(done.error());
    std::ranges::sort(elf_.relocations, {}, [](const ElfRelocation& r) { return std::pair(r.section, r.at); });
    for (const ElfRelocation& r : elf_.relocations)
      if (data_.contains(r.section))
        if (Done done = pointer(r); !done) return Failed(done.error());
    if (Done done = programs(); !done) return Failed(done.error());
    return std::move(object_);
  }

 private:
  using Place = std::pair<std::uint32_t, std::uint64_t>;  // a section and an offset in it
  // A function of a program: instructions [first, end) of a section, which are at `at` in the program.
  struct Placed {
    std::uint32_t section = 0;
    std::uint64_t first = 0, end = 0, at = 0;
  };
  struct Functions {
    std::vector<Placed> list;
    std::map<Place, std::uint64_t> at;
  };

  Done section(std::uint32_t number);
  Done legacy_maps(std::uint32_t number);
  Done btf_maps(std::uint32_t number);
  Done data(std::uint32_t number, bool read_only);
  Done pointer(const ElfRelocation& r);
  Done programs();
  std::expected<Program, std::string> program(const ElfSymbol& entry);
  std::expected<Placed, std::string> function_at(std::uint32_t section, std::uint64_t byte);
  std::expected<std::uint64_t, std::string> place(Program& program, Functions& placed, std::uint32_t section,
                                                  std::uint64_t byte);
  Done instruction(Program& program, Functions& placed, const Placed& function, std::uint64_t index);
  Done relocate_call(Program& program, Functions& placed, std::uint64_t at, std::uint32_t section, std::int64_t byte);
  Done relocate_wide(Program& program, Functions& placed, std::uint64_t at, const ElfSymbol& symbol);
  std::expected<MapPlace, std::string> map_of(const ElfSymbol& symbol, std::uint64_t addend) const;
  const ElfRelocation* relocation_at(std::uint32_t section, std::uint64_t byte) const;
  bool is_code(std::uint32_t section) const {
    return elf_.sections[section].type == SHT_PROGBITS && (elf_.sections[section].flags & SHF_EXECINSTR);
  }

  ElfObject& elf_;
  Object object_;
  std::map<std::uint32_t, std::uint32_t> data_;  // section -> map
  std::map<Place, std::uint32_t> maps_by_place_;
  std::map<Place, const ElfSymbol*> functions_;
  std::uint64_t code_ = 0;  // instructions of all programs so far
};

bool is_part(std::string_view name, std::string_view of) {
  return name == of || (name.starts_with(of) && name[of.size()] == '.');
}

Done Loader::section(std::uint32_t number) {
  const ElfSection& s = elf_.sections[number];
  if (s.name == "license")
    object_.licence.assign(reinterpret_cast<const char*>(s.bytes.data()),
                           strnlen(reinterpret_cast<const char*>(s.bytes.data()), s.bytes.size()));
  if (s.name == "maps") return legacy_maps(number);
  if (s.name == ".maps") return btf_maps(number);
  if (!(s.flags & SHF_ALLOC) || s.size == 0) return {};
  if (is_part(s.name, ".data") || is_part(s.name, ".bss")) return data(number, false);
  if (is_part(s.name, ".rodata")) return data(number, true);
  return {};
}

Done Loader::legacy_maps(std::uint32_t number) {
  for (const ElfSymbol& symbol : elf_.symbols) {
    if (symbol.section != number || symbol.type == STT_SECTION) continue;
    const auto bytes = elf_.sections[number].bytes;
    if (symbol.size < kLegacyMap || symbol.value > bytes.size() || symbol.size > bytes.size() - symbol.value)
      return Failed("the definition of map '" + symbol.name + "' is too short");
    std::uint32_t word[5];
    std::memcpy(word, bytes.data() + symbol.value, sizeof word);
    maps_by_place_[{number, symbol.value}] = static_cast<std::uint32_t>(object_.maps.size());
    MapDefinition map;
    map.name = symbol.name;
    map.type = word[0], map.key_size = word[1], map.value_size = word[2], map.max_entries = word[3],
    map.flags = word[4];
    object_.maps.push_back(std::move(map));
  }
  return {};
}

Done Loader::btf_maps(std::uint32_t number) {
  const auto btf = std::ranges::find(elf_.sections, ".BTF", &ElfSection::name);
  if (btf == elf_.sections.end())
    return Failed("the object has a section .maps and no .BTF that describes it: compile with -g");
  auto maps = maps_of_btf(btf->bytes);
  if (!maps) return Failed(std::move(maps).error());
  // The symbol says where a map is: clang leaves the offsets in BTF to a linker.
  for (BtfMap& map : *maps) {
    const auto symbol = std::ranges::find_if(elf_.symbols, [&](const ElfSymbol& s) {
      return s.section == number && s.type != STT_SECTION && s.name == map.definition.name;
    });
    if (symbol == elf_.symbols.end()) return Failed("map '" + map.definition.name + "' is described and not there");
    maps_by_place_[{number, symbol->value}] = static_cast<std::uint32_t>(object_.maps.size());
    object_.maps.push_back(std::move(map.definition));
  }
  return {};
}

Done Loader::data(std::uint32_t number, bool read_only) {
  const ElfSection& s = elf_.sections[number];
  if (s.size > kMostData) return Failed("section '" + s.name + "' has more than 64 MiB");
  MapDefinition map;
  map.name = s.name;
  map.type = BPF_MAP_TYPE_ARRAY, map.key_size = 4, map.value_size = static_cast<std::uint32_t>(s.size),
  map.max_entries = 1;
  map.read_only = read_only;
  map.contents.resize(s.size);
  std::ranges::copy(s.bytes, map.contents.begin());
  data_[number] = static_cast<std::uint32_t>(object_.maps.size());
  object_.maps.push_back(std::move(map));
  return {};
}

std::expected<MapPlace, std::string> Loader::map_of(const ElfSymbol& symbol, std::uint64_t addend) const {
  if (const auto found = data_.find(symbol.section); found != data_.end()) return MapPlace{found->second, true};
  if (const auto found = maps_by_place_.find({symbol.section, symbol.value + addend}); found != maps_by_place_.end())
    return MapPlace{found->second, false};
  return Failed("'" + symbol.name + "' is neither a map nor global data of this object");
}

// An address in global data; the section holds the addend to the symbol's value.
Done Loader::pointer(const ElfRelocation& r) {
  const ElfSymbol& symbol = elf_.symbols[r.symbol];
  MapDefinition& map = object_.maps[data_.at(r.section)];
  std::uint64_t addend;
  std::memcpy(&addend, map.contents.data() + r.at, sizeof addend);
  const auto target = map_of(symbol, addend);
  if (!target) return Failed(target.error() + ", and '" + map.name + "' has its address");
  if (r.type != kAbsolute64 || !target->data)
    return Failed("'" + map.name + "' has a relocation of type " + std::to_string(r.type) + ", which data cannot have");
  map.pointers.push_back({static_cast<std::uint32_t>(r.at), target->map, symbol.value + addend});
  return {};
}

const ElfRelocation* Loader::relocation_at(std::uint32_t section, std::uint64_t byte) const {
  const auto found = std::ranges::lower_bound(elf_.relocations, std::pair(section, byte), {},
                                              [](const ElfRelocation& r) { return std::pair(r.section, r.at); });
  return found != elf_.relocations.end() && found->section == section && found->at == byte ? &*found : nullptr;
}

Done Loader::programs() {
  const auto has_program = [&](std::uint32_t s) {
    return is_code(s) && elf_.sections[s].size != 0 && elf_.sections[s].name != ".text";
  };
  for (const ElfSymbol& symbol : elf_.symbols)
    if (symbol.type == STT_FUNC && symbol.section != 0 && is_code(symbol.section))
      functions_.try_emplace({symbol.section, symbol.value}, &symbol);
  bool only_text = true;
  for (std::uint32_t s = 1; s < elf_.sections.size(); ++s) only_text &= !has_program(s);
  for (const ElfSymbol& symbol : elf_.symbols) {
    if (symbol.type != STT_FUNC || symbol.binding == STB_LOCAL || symbol.section == 0 || !is_code(symbol.section))
      continue;
    if (!only_text && elf_.sections[symbol.section].name == ".text") continue;
    auto made = program(symbol);
    if (!made) return Failed("function '" + symbol.name + "': " + made.error());
    object_.programs.push_back(*std::move(made));
  }
  if (object_.programs.empty()) return Failed("the object has no global function");
  return {};
}

std::expected<Program, std::string> Loader::program(const ElfSymbol& entry) {
  Program program;
  program.name = entry.name;
  program.section = elf_.sections[entry.section].name;
  program.maps = static_cast<std::uint32_t>(object_.maps.size());
  Functions placed;
  if (auto at = place(program, placed, entry.section, entry.value); !at) return Failed(at.error());
  for (std::size_t f = 0; f < placed.list.size(); ++f) {  // grows as functions are called
    const Placed function = placed.list[f];
    for (std::uint64_t index = function.first; index < function.end; ++index) {
      if (Done done = instruction(program, placed, function, index); !done)
        return Failed("instruction " + std::to_string(function.at + index - function.first) + ": " + done.error());
      if (program.instructions[function.at + index - function.first].opcode == opcode::kLoadWide) ++index;
    }
  }
  return program;
}

// The function that begins at that byte of the section, by its symbol.
std::expected<Loader::Placed, std::string> Loader::function_at(std::uint32_t section, std::uint64_t byte) {
  const auto found = functions_.find({section, byte});
  if (found == functions_.end()) return Failed("no function of this object begins where it leads to");
  const ElfSymbol* symbol = found->second;
  const std::uint64_t size = elf_.sections[section].bytes.size();
  if (byte % 8 != 0 || symbol->size == 0 || symbol->size % 8 != 0 || symbol->size > size - byte)
    return Failed("function '" + symbol->name + "' reaches beyond its section");
  return Placed{section, byte / 8, (byte + symbol->size) / 8, 0};
}

// Where in the program the function is that begins at that byte of the section; appends it if it is not there yet.
std::expected<std::uint64_t, std::string> Loader::place(Program& program, Functions& placed, std::uint32_t section,
                                                        std::uint64_t byte) {
  if (const auto found = placed.at.find({section, byte}); found != placed.at.end()) return found->second;
  auto function = function_at(section, byte);
  if (!function) return Failed(std::move(function).error());
  function->at = program.instructions.size();
  const std::uint64_t count = function->end - function->first;
  if (function->at + count > kMostInstructions) return Failed("it has more than 1048576 instructions");
  code_ += count;
  if (code_ > kMostCode) return Failed("the object's programs have more than 4194304 instructions together");
  program.instructions.resize(function->at + count);
  std::memcpy(program.instructions.data() + function->at, elf_.sections[section].bytes.data() + byte, count * 8);
  placed.at[{section, byte}] = function->at;
  placed.list.push_back(*function);
  return function->at;
}

Done Loader::instruction(Program& program, Functions& placed, const Placed& function, std::uint64_t index) {
  const std::uint64_t at = function.at + index - function.first;
  const Instruction i = program.instructions[at];
  const ElfRelocation* r = relocation_at(function.section, index * 8);
  const bool calls = i.opcode == opcode::kCall && i.src() == static_cast<unsigned>(Callee::Function);
  if (!r) {  // a call within its section has no relocation: its distance is that in the section
    if (calls)
      return relocate_call(program, placed, at, function.section,
                           (static_cast<std::int64_t>(index) + 1 + i.immediate) * 8);
    return {};
  }
  const ElfSymbol& symbol = elf_.symbols[r->symbol];
  if (symbol.section == 0) return Failed("'" + symbol.name + "' is defined nowhere");
  if (r->type == R_BPF_64_32 && calls)
    return relocate_call(program, placed, at, symbol.section,
                         static_cast<std::int64_t>(symbol.value) + (std::int64_t{1} + i.immediate) * 8);
  if (r->type == R_BPF_64_64 && i.opcode == opcode::kLoadWide) {
    if (at + 1 >= program.instructions.size()) return Failed("the second half of a wide load is missing");
    return relocate_wide(program, placed, at, symbol);
  }
  return Failed("a relocation of type " + std::to_string(r->type) + " at an instruction that cannot have it");
}

Done Loader::relocate_call(Program& program, Functions& placed, std::uint64_t at, std::uint32_t section,
                           std::int64_t byte) {
  const auto target = byte < 0
                          ? std::expected<std::uint64_t, std::string>(Failed("it calls what lies before its section"))
                          : place(program, placed, section, static_cast<std::uint64_t>(byte));
  if (!target) return Failed(target.error());
  program.instructions[at].immediate = static_cast<std::int32_t>(static_cast<std::int64_t>(*target) -
                                                                 static_cast<std::int64_t>(at) - 1);
  return {};
}

Done Loader::relocate_wide(Program& program, Functions& placed, std::uint64_t at, const ElfSymbol& symbol) {
  const auto dst = static_cast<std::uint8_t>(program.instructions[at].dst());
  const auto addend = static_cast<std::uint32_t>(program.instructions[at].immediate);
  const auto becomes = [&](Wide wide, std::uint64_t first, std::uint64_t second) {
    program.instructions[at].registers = static_cast<std::uint8_t>(dst | static_cast<unsigned>(wide) << 4);
    program.instructions[at].immediate = static_cast<std::int32_t>(first);
    program.instructions[at + 1].immediate = static_cast<std::int32_t>(second);
  };
  if (is_code(symbol.section)) {
    const auto target = place(program, placed, symbol.section, symbol.value + addend);
    if (!target) return Failed(target.error());
    becomes(Wide::Function, *target - at - 1, 0);
    return {};
  }
  const auto map = map_of(symbol, addend);
  if (!map) return Failed(map.error());
  if (map->data) becomes(Wide::MapValue, map->map, symbol.value + addend);
  else becomes(Wide::Map, map->map, 0);
  return {};
}

}  // namespace

std::expected<Object, std::string> load_object(std::span<const std::byte> file) {
  auto elf = read_elf(file);
  if (!elf) return Failed(std::move(elf).error());
  return Loader(*elf).run();
}

}  // namespace ramet::jit
