#include "jit/elf.hpp"

#include <gelf.h>
#include <libelf.h>

#include <cstring>
#include <memory>

namespace ramet::jit {
namespace {

using Failed = std::unexpected<std::string>;
using Done = std::expected<void, std::string>;

struct EndElf {
  void operator()(Elf* elf) const { elf_end(elf); }
};

Failed damaged(const std::string& what) { return Failed("the object is damaged: " + what); }

// A string that ends within the section.
std::expected<std::string, std::string> string_at(std::span<const std::byte> strings, std::uint64_t at) {
  if (at >= strings.size()) return damaged("a name lies outside its section");
  const char* start = reinterpret_cast<const char*>(strings.data()) + at;
  const std::size_t length = strnlen(start, strings.size() - at);
  if (length == strings.size() - at) return damaged("a name has no end");
  return std::string(start, length);
}

class Reader {
 public:
  explicit Reader(std::span<const std::byte> file) { object_.file.assign(file.begin(), file.end()); }

  std::expected<ElfObject, std::string> run() {
    if (elf_version(EV_CURRENT) == EV_NONE) return Failed("libelf is of another version");
    elf_.reset(elf_memory(reinterpret_cast<char*>(object_.file.data()), object_.file.size()));
    GElf_Ehdr header;
    if (!elf_ || elf_kind(elf_.get()) != ELF_K_ELF || !gelf_getehdr(elf_.get(), &header))
      return Failed("this is no ELF object");
    if (gelf_getclass(elf_.get()) != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB)
      return Failed("the object is not of 64 bits and little-endian");
    if (header.e_machine != EM_BPF || header.e_type != ET_REL)
      return Failed("the object is not a relocatable one for eBPF");
    if (Done done = sections(); !done) return Failed(done.error());
    for (std::uint32_t s = 0; s < object_.sections.size(); ++s) {
      if (object_.sections[s].type != SHT_SYMTAB) continue;
      if (symbol_section_ != 0) return damaged("it has two symbol tables");
      symbol_section_ = s;
      if (Done done = symbols(s); !done) return Failed(done.error());
    }
    for (std::uint32_t s = 0; s < object_.sections.size(); ++s)
      if (object_.sections[s].type == SHT_REL)
        if (Done done = relocations(s); !done) return Failed(done.error());
    elf_.reset();
    return std::move(object_);
  }

 private:
  std::expected<GElf_Shdr, std::string> header_of(std::size_t number) {
    GElf_Shdr header;
    Elf_Scn* section = elf_getscn(elf_.get(), number);
    if (!section || !gelf_getshdr(section, &header))
      return damaged("section " + std::to_string(number) + " cannot be read");
    return header;
  }

  Done sections() {
    std::size_t count = 0, names = 0;
    if (elf_getshdrnum(elf_.get(), &count) != 0 || elf_getshdrstrndx(elf_.get(), &names) != 0)
      return damaged("its sections cannot be counted");
    if (count < 2 || names >= count) return damaged("it has no sections with names");
    for (std::size_t number = 0; number < count; ++number) {
      const auto header = header_of(number);
      if (!header) return Failed(header.error());
      headers_.push_back(*header);
      ElfSection section{
          .name = {}, .type = header->sh_type, .flags = header->sh_flags, .size = header->sh_size, .bytes = {}};
      if (number != 0 && header->sh_type != SHT_NOBITS) {
        if (header->sh_offset > object_.file.size() || header->sh_size > object_.file.size() - header->sh_offset)
          return damaged("section " + std::to_string(number) + " reaches beyond its end");
        section.bytes = std::span(object_.file).subspan(header->sh_offset, header->sh_size);
      }
      object_.sections.push_back(std::move(section));
    }
    for (std::size_t number = 1; number < count; ++number) {
      auto name = string_at(object_.sections[names].bytes, headers_[number].sh_name);
      if (!name) return Failed(std::move(name).error());
      object_.sections[number].name = *std::move(name);
    }
    return {};
  }

  Done symbols(std::uint32_t number) {
    const auto bytes = object_.sections[number].bytes;
    if (headers_[number].sh_link >= object_.sections.size() || bytes.size() % sizeof(Elf64_Sym) != 0)
      return damaged("its symbol table");
    const auto strings = object_.sections[headers_[number].sh_link].bytes;
    for (std::size_t at = 0; at < bytes.size(); at += sizeof(Elf64_Sym)) {
      Elf64_Sym raw;
      std::memcpy(&raw, bytes.data() + at, sizeof raw);
      ElfSymbol symbol{.name = {},
                       .section = raw.st_shndx,
                       .value = raw.st_value,
                       .size = raw.st_size,
                       .type = static_cast<std::uint8_t>(ELF64_ST_TYPE(raw.st_info)),
                       .binding = static_cast<std::uint8_t>(ELF64_ST_BIND(raw.st_info))};
      if (raw.st_name != 0) {
        auto name = string_at(strings, raw.st_name);
        if (!name) return Failed(std::move(name).error());
        symbol.name = *std::move(name);
      }
      if (symbol.section >= SHN_LORESERVE) symbol.section = 0;  // absolute values, names of files
      if (symbol.section >= object_.sections.size()) return damaged("symbol '" + symbol.name + "' is in no section");
      if (symbol.section != 0 && symbol.value > object_.sections[symbol.section].size)
        return damaged("symbol '" + symbol.name + "' lies outside its section");
      object_.symbols.push_back(std::move(symbol));
    }
    return {};
  }

  Done relocations(std::uint32_t number) {
    const std::uint32_t target = headers_[number].sh_info;
    const auto bytes = object_.sections[number].bytes;
    if (target == 0 || target >= object_.sections.size() || bytes.size() % sizeof(Elf64_Rel) != 0 ||
        headers_[number].sh_link != symbol_section_)
      return damaged("section '" + object_.sections[number].name + "'");
    for (std::size_t at = 0; at < bytes.size(); at += sizeof(Elf64_Rel)) {
      Elf64_Rel raw;
      std::memcpy(&raw, bytes.data() + at, sizeof raw);
      ElfRelocation r{.section = target,
                      .at = raw.r_offset,
                      .type = static_cast<std::uint32_t>(ELF64_R_TYPE(raw.r_info)),
                      .symbol = static_cast<std::uint32_t>(ELF64_R_SYM(raw.r_info))};
      const std::uint64_t size = object_.sections[target].bytes.size();
      if (r.symbol >= object_.symbols.size() || size < 8 || r.at > size - 8) {
        if (!(object_.sections[target].flags & SHF_ALLOC)) continue;  // debugging information, of no interest here
        return damaged("a relocation in '" + object_.sections[number].name + "'");
      }
      object_.relocations.push_back(r);
    }
    return {};
  }

  std::unique_ptr<Elf, EndElf> elf_;
  ElfObject object_;
  std::vector<GElf_Shdr> headers_;
  std::uint32_t symbol_section_ = 0;
};

}  // namespace

std::expected<ElfObject, std::string> read_elf(std::span<const std::byte> file) { return Reader(file).run(); }

}  // namespace ramet::jit
