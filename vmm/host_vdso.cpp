#include "vmm/host_vdso.hpp"

#include <elf.h>
#include <sys/auxv.h>

#include <charconv>
#include <fstream>
#include <string>
#include <string_view>

namespace ramet::vmm {
namespace {

struct Named {
  std::string_view name;
  std::uint64_t VdsoFunctions::* function;
};
constexpr Named kFunctions[] = {
    {"__vdso_clock_gettime", &VdsoFunctions::clock_gettime},
    {"__vdso_clock_getres", &VdsoFunctions::clock_getres},
    {"__vdso_gettimeofday", &VdsoFunctions::gettimeofday},
    {"__vdso_time", &VdsoFunctions::time},
    {"__vdso_getcpu", &VdsoFunctions::getcpu},
};

template <class T>
const T* at(const std::byte* image, std::uint64_t offset) {
  return reinterpret_cast<const T*>(image + offset);
}

// "start-end" of a line of /proc/self/maps.
bool read_range(const std::string& line, std::uint64_t& start, std::uint64_t& end) {
  const char* const last = line.data() + line.size();
  const auto first = std::from_chars(line.data(), last, start, 16);
  return first.ec == std::errc() && first.ptr != last &&
         std::from_chars(first.ptr + 1, last, end, 16).ec == std::errc();
}

HostVdso find_host_vdso() {
  HostVdso vdso;
  const std::uint64_t image = ::getauxval(AT_SYSINFO_EHDR);
  if (!image) return {};
  // Data is in one mapping or several, without gaps.
  std::ifstream maps("/proc/self/maps");
  std::uint64_t data = 0, data_end = 0;
  for (std::string line; std::getline(maps, line);) {
    std::uint64_t start, end;
    if (!read_range(line, start, end)) return {};
    if (line.find(" [vvar") != line.npos) {
      if (start != data_end) data = start;
      data_end = end;
    } else if (start == image) {
      vdso.image_bytes = end - start;
    }
  }
  if (data_end != image) return {};
  vdso.address = data;
  vdso.data_bytes = image - data;
  if (vdso.data_bytes + vdso.image_bytes > kMostHostVdsoBytes) return {};
  vdso.functions = find_functions(reinterpret_cast<const std::byte*>(image));
  return vdso;
}

}  // namespace

VdsoFunctions find_functions(const std::byte* image) {
  const auto* header = at<Elf64_Ehdr>(image, 0);
  const auto* segments = at<Elf64_Phdr>(image, header->e_phoff);
  const Elf64_Dyn* dynamic = nullptr;
  for (unsigned i = 0; i < header->e_phnum; ++i)
    if (segments[i].p_type == PT_DYNAMIC) dynamic = at<Elf64_Dyn>(image, segments[i].p_offset);
  const Elf64_Sym* symbols = nullptr;
  const char* names = nullptr;
  const Elf64_Word* hash = nullptr;  // all x86-64 kernels have DT_HASH there
  for (; dynamic && dynamic->d_tag != DT_NULL; ++dynamic) {
    if (dynamic->d_tag == DT_SYMTAB) symbols = at<Elf64_Sym>(image, dynamic->d_un.d_ptr);
    if (dynamic->d_tag == DT_STRTAB) names = at<char>(image, dynamic->d_un.d_ptr);
    if (dynamic->d_tag == DT_HASH) hash = at<Elf64_Word>(image, dynamic->d_un.d_ptr);
  }
  VdsoFunctions found;
  if (!symbols || !names || !hash) return found;
  for (Elf64_Word i = 0; i < hash[1]; ++i)
    for (const Named& f : kFunctions)
      if (symbols[i].st_shndx != SHN_UNDEF && f.name == names + symbols[i].st_name)
        found.*f.function = symbols[i].st_value;
  return found;
}

VdsoFunctions HostVdso::functions_at(std::uint64_t image) const {
  VdsoFunctions there = functions;
  for (const Named& f : kFunctions)
    if (there.*f.function) there.*f.function += image;
  return there;
}

const HostVdso& host_vdso() {
  static const HostVdso vdso = find_host_vdso();
  return vdso;
}

}  // namespace ramet::vmm
