// Reading and checking ELF files.
#include "vmm/linux/program/elf.hpp"

#include <elf.h>
#include <fmt/format.h>

#include <limits.h>
#include <algorithm>
#include <bit>
#include <cstring>

namespace ramet::vmm {
namespace {

constexpr std::uint64_t kLowest = 0x10000;
constexpr std::uint64_t kMaxHeaderBytes = 65536;  // as Linux

mm::Prot prot_of(std::uint32_t flags) {
  mm::Prot prot = mm::Prot::None;
  if (flags & (PF_R | PF_W | PF_X)) prot = mm::Prot::Read;  // every page that is mapped can be read
  if (flags & PF_W) prot = prot | mm::Prot::Write;
  if (flags & PF_X) prot = prot | mm::Prot::Exec;
  return prot;
}

class Reader {
 public:
  Reader(const std::string& name, const arch::GuestAbi& abi, std::uint64_t size, const ReadAt& read)
      : name_(name), abi_(abi), size_(size), read_(read) {}

  std::expected<ElfFile, Failure> file() {
    if (auto ok = header(); !ok) return std::unexpected(ok.error());
    std::vector<Elf64_Phdr> headers(header_.e_phnum);
    const std::uint64_t bytes = headers.size() * sizeof(Elf64_Phdr);
    if (header_.e_phoff > size_ || bytes > size_ - header_.e_phoff ||
        !read_(header_.e_phoff, std::as_writable_bytes(std::span(headers))))
      return refuse("is truncated: its program headers lie beyond its end");
    for (const Elf64_Phdr& h : headers) {
      Status ok;
      if (h.p_type == PT_LOAD) ok = segment(h);
      else if (h.p_type == PT_INTERP) ok = interpreter(h);
      else if (h.p_type == PT_GNU_STACK) elf_.executable_stack = h.p_flags & PF_X;
      if (!ok) return std::unexpected(ok.error());
    }
    if (elf_.segments.empty()) return refuse("is malformed: nothing in it is to be loaded");
    if (!elf_.relocatable && elf_.start() < kLowest) return refuse("is malformed: it wants to be loaded at address 0");
    for (const Segment& s : elf_.segments)
      if (header_.e_phoff >= s.offset && header_.e_phoff - s.offset < s.file_bytes)
        elf_.headers = s.address + (header_.e_phoff - s.offset);
    return std::move(elf_);
  }

 private:
  std::unexpected<Failure> refuse(const std::string& why) const {
    return failure(fmt::format("{} {}", name_, why), 126);
  }

  Status header() {
    if (size_ == 0) return refuse("is empty");
    std::array<unsigned char, EI_NIDENT> ident{};
    if (size_ < ident.size() || !read_(0, std::as_writable_bytes(std::span(ident))) ||
        std::memcmp(ident.data(), ELFMAG, SELFMAG) != 0)
      return refuse("is not an ELF program");
    if (ident[EI_DATA] != ELFDATA2LSB)
      return refuse(fmt::format("is a big-endian program; this machine runs {} programs", abi_.name));
    if (ident[EI_CLASS] != ELFCLASS64) {
      std::uint16_t machine = 0;  // at the same place in both classes
      (void)read_(offsetof(Elf64_Ehdr, e_machine), std::as_writable_bytes(std::span(&machine, 1)));
      return refuse(fmt::format("is a 32-bit program, built for {}; this machine runs {} programs",
                                elf_machine_name(machine), abi_.name));
    }
    if (size_ < sizeof header_ || !read_(0, std::as_writable_bytes(std::span(&header_, 1))))
      return refuse("is truncated: its ELF header is cut off");
    if (header_.e_machine != abi_.elf_machine)
      return refuse(fmt::format("is built for {}; this machine runs {} programs", elf_machine_name(header_.e_machine),
                                abi_.name));
    if (header_.e_type == ET_REL) return refuse("is an object file, not a program: link it first");
    if (header_.e_type == ET_CORE) return refuse("is a core dump, not a program");
    if (header_.e_type != ET_EXEC && header_.e_type != ET_DYN) return refuse("is malformed: its ELF type is unknown");
    if (header_.e_phnum == 0) return refuse("is malformed: it has no program headers");
    if (header_.e_phentsize != sizeof(Elf64_Phdr) || header_.e_phnum * sizeof(Elf64_Phdr) > kMaxHeaderBytes)
      return refuse("is malformed: its program headers have a wrong size");
    elf_.relocatable = header_.e_type == ET_DYN;
    elf_.entry = header_.e_entry;
    elf_.header_count = header_.e_phnum;
    elf_.alignment = mm::kPageSize;
    return {};
  }

  Status segment(const Elf64_Phdr& h) {
    if (h.p_memsz == 0) return {};
    if (h.p_filesz > h.p_memsz) return refuse("is malformed: a segment is larger in the file than in memory");
    if (h.p_offset > size_ || h.p_filesz > size_ - h.p_offset)
      return refuse("is truncated: a segment lies beyond its end");
    if (h.p_vaddr > abi_.user_end || h.p_memsz > abi_.user_end - h.p_vaddr)
      return refuse("is malformed: a segment lies outside user memory");
    if ((h.p_vaddr - h.p_offset) % mm::kPageSize)
      return refuse("is malformed: a segment's address and offset do not match");
    if (!elf_.segments.empty()) {
      const Segment& last = elf_.segments.back();
      if (h.p_vaddr < last.address + last.memory_bytes)
        return refuse("is malformed: its segments overlap or are out of order");
    }
    if (std::has_single_bit(h.p_align)) elf_.alignment = std::max<std::uint64_t>(elf_.alignment, h.p_align);
    elf_.segments.push_back({h.p_vaddr, h.p_memsz, h.p_offset, h.p_filesz, prot_of(h.p_flags)});
    return {};
  }

  Status interpreter(const Elf64_Phdr& h) {
    if (!elf_.interpreter.empty()) return {};  // the first counts
    if (h.p_filesz < 2 || h.p_filesz > PATH_MAX)
      return refuse("is malformed: its interpreter's name has a wrong length");
    if (h.p_offset > size_ || h.p_filesz > size_ - h.p_offset)
      return refuse("is truncated: its interpreter's name lies beyond its end");
    std::string path(h.p_filesz, '\0');
    if (!read_(h.p_offset, std::as_writable_bytes(std::span(path)))) return refuse("cannot be read");
    if (path.back() != '\0') return refuse("is malformed: its interpreter's name does not end");
    path.resize(std::strlen(path.c_str()));
    if (path.empty()) return refuse("is malformed: its interpreter has no name");
    elf_.interpreter = std::move(path);
    return {};
  }

  const std::string& name_;
  const arch::GuestAbi& abi_;
  std::uint64_t size_;
  const ReadAt& read_;
  Elf64_Ehdr header_{};
  ElfFile elf_;
};

}  // namespace

std::uint64_t ElfFile::start() const { return mm::align_down(segments.front().address, mm::kPageSize); }
std::uint64_t ElfFile::end() const {
  return mm::align_up(segments.back().address + segments.back().memory_bytes, mm::kPageSize);
}

std::string elf_machine_name(unsigned machine) {
  switch (machine) {
    case EM_386: return "32-bit x86 (i386)";
    case EM_ARM: return "32-bit Arm";
    case EM_AARCH64: return "arm64 (aarch64)";
    case EM_X86_64: return "x86-64";
    case EM_RISCV: return "RISC-V";
    case EM_PPC64: return "64-bit PowerPC";
    case EM_S390: return "s390";
    case EM_MIPS: return "MIPS";
    case EM_LOONGARCH: return "LoongArch";
    case EM_BPF: return "eBPF";
    default: return fmt::format("machine number {}", machine);
  }
}

std::expected<ElfFile, Failure> read_elf(const std::string& name, const arch::GuestAbi& abi, std::uint64_t file_bytes,
                                         const ReadAt& read) {
  return Reader(name, abi, file_bytes, read).file();
}

}  // namespace ramet::vmm
