// Loading a program: finding it, mapping its segments and its interpreter's. The first stack is laid out
// by initial_stack.cpp.
#include "vmm/linux/program/loader.hpp"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/program/elf.hpp"
#include "vmm/linux/program/initial_stack.hpp"
#include "vmm/linux/program/vdso.hpp"

namespace ramet::vmm {
namespace {

using mm::align_down, mm::align_up, mm::kBlockSize, mm::kPageSize;

constexpr std::uint64_t kBrkSpread = 32ull << 20, kStackSpread = 64ull << 20;
constexpr std::uint64_t kVdsoRoom = 2ull << 20;    // above the stack
constexpr std::uint64_t kMaxAlignment = 1ull << 30;
// Programs up to this size are mapped at once: cheaper than the faults they would take. See bench.
constexpr std::uint64_t kPopulateBytes = 256 << 10;
constexpr std::uint64_t kInitialStack = 128 << 10;  // grows by faults from there
constexpr unsigned kMaxScripts = 4;                // how often `#!` may lead to the next

std::uint64_t random_below(std::uint64_t limit, std::uint64_t granule) {
  std::uint64_t r = 0;
  // The host's pool was initialised long ago. Without it the address is fixed, and can be guessed.
  if (getrandom(&r, sizeof r, GRND_NONBLOCK) != sizeof r) return 0;
  return align_down(r % limit, granule);
}

struct Program {
  std::shared_ptr<OpenFile> file;
  std::string name;           // as it was called; for messages
  std::uint64_t bytes = 0;

  bool read(std::uint64_t offset, std::span<std::byte> out) const {
    while (!out.empty()) {
      ssize_t n = pread(file->host.get(), out.data(), out.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      out = out.subspan(static_cast<std::size_t>(n));
      offset += static_cast<std::uint64_t>(n);
    }
    return true;
  }
};

// --- finding ---

std::unexpected<Failure> cannot_open(const std::string& name, int error) {
  if (error == ENOENT || error == ENOTDIR) return failure(fmt::format("{} does not exist", name), 127, error);
  return failure(fmt::format("{} cannot be opened: {}", name, strerror(error)), 126, error);
}

std::expected<Program, Failure> check_file(std::shared_ptr<OpenFile> file, const std::string& name) {
  struct stat st;
  if (fstat(file->host.get(), &st) != 0) return cannot_open(name, errno);
  if (S_ISDIR(st.st_mode)) return failure(fmt::format("{} is a directory", name), 126, EACCES);
  if (!S_ISREG(st.st_mode)) return failure(fmt::format("{} is not a regular file", name), 126, EACCES);
  if (faccessat(file->host.get(), "", X_OK, AT_EMPTY_PATH | AT_EACCESS) != 0)
    return failure(fmt::format("{} is not executable: chmod +x it", name), 126, EACCES);
  return Program{std::move(file), name, static_cast<std::uint64_t>(st.st_size)};
}

std::expected<Program, Failure> open_shared(Files& files, const std::string& guest_path) {
  auto file = files.open(guest_path, O_RDONLY);
  if (!file) return cannot_open(guest_path, file.error());
  return check_file(std::move(*file), guest_path);
}

std::expected<Program, Failure> open_on_host(const std::string& path) {
  char absolute[PATH_MAX];
  if (!realpath(path.c_str(), absolute)) return cannot_open(path, errno);
  // Not to hang on a pipe: what is not a regular file is refused below.
  HostFd fd(open(absolute, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return cannot_open(path, errno);
  auto file = std::make_shared<OpenFile>();
  file->host = std::move(fd);
  file->path = absolute;
  return check_file(std::move(file), path);
}

// "#!interpreter argument": the interpreter and what stands before the script's own arguments.
std::optional<std::vector<std::string>> script_line(const Program& program) {
  std::array<char, 256> head{};  // BINPRM_BUF_SIZE
  const std::size_t n = std::min<std::uint64_t>(program.bytes, head.size() - 1);
  if (n < 2 || !program.read(0, std::as_writable_bytes(std::span(head).first(n))) || head[0] != '#' || head[1] != '!')
    return std::nullopt;
  std::string line(head.data() + 2);
  if (auto end = line.find('\n'); end != line.npos) line.resize(end);
  const auto trim = [](const std::string& s) {
    auto from = s.find_first_not_of(" \t"), to = s.find_last_not_of(" \t\r");
    return from == s.npos ? std::string() : s.substr(from, to - from + 1);
  };
  line = trim(line);
  auto space = line.find_first_of(" \t");
  std::vector<std::string> words{line.substr(0, space)};
  if (space != line.npos) words.push_back(trim(line.substr(space)));
  return words;
}

// --- mapping ---

std::unexpected<Failure> cannot_map(const Program& program, mm::Error error) {
  if (error == mm::Error::NoMemory)
    return failure(fmt::format("{} does not fit into the guest's memory: raise --memory", program.name), 126, ENOMEM);
  return failure(fmt::format("{} cannot be mapped: {}", program.name, mm::describe(error)), 126, errno_of(error));
}

// Maps one segment whose addresses are moved by `bias`.
mm::Result<> map_segment(mm::AddressSpace& memory, const std::shared_ptr<mm::Backing>& backing, const Segment& s,
                         mm::Gva bias, bool populate) {
  const mm::Gva start = align_down(bias + s.address, kPageSize);
  const mm::Gva file_end = bias + s.address + s.file_bytes,
                end = align_up(bias + s.address + s.memory_bytes, kPageSize);
  const mm::Gva mapped_end = s.file_bytes ? align_up(file_end, kPageSize) : start;
  const bool writable = mm::has(s.prot, mm::Prot::Write);
  if (mapped_end > start) {
    auto at = memory.map({.address = start,
                          .length = mapped_end - start,
                          .prot = s.prot,
                          .fixed = true,
                          .populate = populate,
                          .backing = backing,
                          .offset = align_down(s.offset, kPageSize),
                          .name = {}});
    if (!at) return mm::fail(at.error());
    // The rest of the last page is the beginning of .bss. All of it is zeroed: dynamic linkers allocate behind their
    // end.
    if (writable && s.memory_bytes > s.file_bytes && file_end < mapped_end) {
      std::vector<std::byte> zeroes(mapped_end - file_end);
      if (auto r = memory.write(file_end, zeroes); !r) return r;
    }
  }
  if (end > mapped_end) {
    auto at = memory.map({.address = mapped_end,
                          .length = end - mapped_end,
                          .prot = s.prot,
                          .fixed = true,
                          .populate = populate,
                          .backing = nullptr,
                          .name = {}});
    if (!at) return mm::fail(at.error());
  }
  return {};
}

// Maps the whole file; `base` is where its first page goes (ignored for programs with a fixed address).
// Returns what is to be added to the file's addresses.
std::expected<mm::Gva, Failure> map_program(Image& image, const Program& program, const ElfFile& elf, mm::Gva base) {
  std::uint64_t bytes = 0;
  for (const Segment& s : elf.segments) {
    bytes += s.memory_bytes;
  }
  if (bytes > image.memory().limit_bytes())
    return failure(fmt::format("{} needs {} MiB of memory, more than --memory gives it", program.name, bytes >> 20),
                   126, ENOMEM);
  auto backing = Files::private_backing(program.file);
  if (!backing) return cannot_open(program.name, backing.error());
  const mm::Gva bias = elf.relocatable ? base - elf.start() : 0;
  const bool populate = bytes <= kPopulateBytes;
  for (const Segment& s : elf.segments)
    if (auto r = map_segment(image.memory(), *backing, s, bias, populate); !r) return cannot_map(program, r.error());
  return bias;
}

// A free place for a relocatable file, aligned as it asks and to blocks.
std::expected<mm::Gva, Failure> find_place(Image& image, const Program& program, const ElfFile& elf) {
  const std::uint64_t alignment = std::clamp(elf.alignment, kBlockSize, kMaxAlignment);
  const std::uint64_t span = elf.end() - elf.start();
  auto at = image.memory().map(
      {.address = 0, .length = span + alignment, .prot = mm::Prot::None, .backing = nullptr, .name = {}});
  if (!at) return cannot_map(program, at.error());
  // Only to find the gap: nobody else runs yet.
  if (auto r = image.memory().unmap(*at, span + alignment); !r) return cannot_map(program, r.error());
  return align_up(*at, alignment);
}

std::expected<ElfFile, Failure> read_program(const Image& image, const Program& program) {
  return read_elf(program.name, image.abi, program.bytes,
                  [&](std::uint64_t offset, std::span<std::byte> out) { return program.read(offset, out); });
}

// The option that would share a file: its directory, or everything.
std::string sharing_hint(const std::string& path) {
  std::string directory = path.substr(0, path.rfind('/'));
  return directory.empty() ? "add --root /" : fmt::format("add --root / or --dir {}", directory);
}

std::expected<Program, Failure> open_interpreter(Process& process, const Program& program, const std::string& path) {
  auto opened = open_shared(process.files, path);
  if (opened) return opened;
  const std::string needs = fmt::format("{} needs the interpreter {}", program.name, path);
  if (!process.files.in_share(path))
    return failure(fmt::format("{}, which is not shared: {}", needs, sharing_hint(path)), 126, ENOENT);
  if (opened.error().status != 127)
    return failure(fmt::format("{}: {}", needs, opened.error().message), 126, opened.error().error);
  // Debian's /lib64/ld-linux-x86-64.so.2 is a link into another directory.
  return failure(fmt::format("{}, which does not exist in what is shared, or is a link out of it: add --root /", needs),
                 126, ENOENT);
}

// Opens the first program of a family: by its path on the host, if nothing is shared as the root.
std::expected<Program, Failure> open_first(Files& files, const std::string& path) {
  if (!files.in_share("/")) return open_on_host(path);
  return open_shared(files, path.starts_with('/') ? path : "/" + path);
}

// Puts the interpreter in place of a script, again if that is a script, and its arguments before `words`. `called`: the
// path of the first script.
Status resolve_scripts(Process& process, Program& program, const std::string& called, std::vector<std::string>& words) {
  for (unsigned depth = 0;; ++depth) {
    auto line = script_line(program);
    if (!line) return {};
    if (depth == kMaxScripts || line->front().empty())
      return failure(fmt::format("{} is a script whose first line names no interpreter that can run it", program.name),
                     126, line->front().empty() ? ENOEXEC : ELOOP);
    if (words.empty()) words.emplace_back();
    words.front() = depth == 0 ? called : program.name;
    words.insert(words.begin(), line->begin(), line->end());
    auto interpreter = open_interpreter(process, program, line->front());
    if (!interpreter) return std::unexpected(interpreter.error());
    program = std::move(*interpreter);
  }
}

// Where a program's dynamic linker was mapped, and where it begins.
struct Interpreter {
  mm::Gva base = 0, entry = 0;
};
std::expected<Interpreter, Failure> load_interpreter(Process& process, Image& image, const Program& program,
                                                     const ElfFile& elf) {
  auto interpreter = open_interpreter(process, program, elf.interpreter);
  if (!interpreter) return std::unexpected(interpreter.error());
  auto its_elf = read_program(image, *interpreter);
  if (!its_elf) return failure(its_elf.error().message, its_elf.error().status, ELIBBAD);
  mm::Gva place = 0;
  if (its_elf->relocatable) {
    auto found = find_place(image, *interpreter, *its_elf);
    if (!found) return std::unexpected(found.error());
    place = *found;
  }
  auto bias = map_program(image, *interpreter, *its_elf, place);
  if (!bias) return std::unexpected(bias.error());
  return Interpreter{*bias + its_elf->start(), *bias + its_elf->entry};
}

// Keeps what /proc shows of a program, charged to its memory.
Status remember(Image& image, const Program& program, std::vector<std::string> words,
                const std::vector<std::string>& environment) {
  image.executable = program.file->path;
  image.file = program.file;
  image.strings = mm::Charge(image.memory().account());
  std::uint64_t strings = 0;
  for (const std::vector<std::string>* list : {&std::as_const(words), &environment})
    for (const std::string& s : *list) strings += sizeof(std::string) + s.size();
  if (!image.strings.grow(strings)) return cannot_map(program, mm::Error::NoMemory);
  image.arguments = std::move(words);
  image.environment = environment;
  return {};
}

Status map_stack(Image& image, const Program& program, bool executable, std::uint64_t bytes) {
  image.stack_top = image.abi.user_end - kVdsoRoom - random_below(kStackSpread, kPageSize);
  image.stack_limit = bytes;
  auto prot = mm::Prot::Read | mm::Prot::Write;
  if (executable) prot = prot | mm::Prot::Exec;
  const std::uint64_t now = std::min(kInitialStack, bytes);
  auto stack = image.memory().map({.address = image.stack_top - now,
                                   .length = now,
                                   .prot = prot,
                                   .fixed = true,
                                   .grows_down = true,
                                   .backing = nullptr,
                                   .name = "[stack]"});
  if (!stack) return cannot_map(program, stack.error());
  return {};
}

// `called`: the program's path for its interpreter, if it is a script, and for AT_EXECFN.
std::expected<Start, Failure> load(Process& process, Image& image, Program program, const std::string& called,
                                   std::vector<std::string> words, const std::vector<std::string>& environment,
                                   std::uint64_t stack_bytes) {
  if (auto done = resolve_scripts(process, program, called, words); !done) return std::unexpected(done.error());
  auto elf = read_program(image, program);
  if (!elf) return failure(elf.error().message, elf.error().status, ENOEXEC);
  const std::uint64_t alignment = std::clamp(elf->alignment, kBlockSize, kMaxAlignment);
  const Machine::CodePlaces places = image.machine().code_places();
  const mm::Gva base = align_up(image.abi.program_base +
                                    mm::align_down(places.program % image.abi.program_spread, kBlockSize),
                                alignment);
  auto bias = map_program(image, program, *elf, base);
  if (!bias) return std::unexpected(bias.error());

  StackContents contents;
  Start start{.pc = *bias + elf->entry, .sp = 0};
  contents.entry = start.pc;
  if (!elf->interpreter.empty()) {
    auto interpreter = load_interpreter(process, image, program, *elf);
    if (!interpreter) return std::unexpected(interpreter.error());
    contents.interpreter_base = interpreter->base;
    start.pc = interpreter->entry;
  }

  image.brk_start = *bias + elf->end() + random_below(kBrkSpread, kPageSize);
  {
    LockGuard guard(image.brk_lock);
    image.brk = image.brk_start;
  }
  if (auto done = remember(image, program, std::move(words), environment); !done) return std::unexpected(done.error());
  if (auto done = map_stack(image, program, elf->executable_stack && !process.deny_wx, stack_bytes); !done)
    return std::unexpected(done.error());
  const mm::Gva vdso = image.abi.user_end - kVdsoBytes -
                       mm::align_down(places.vdso % (kVdsoRoom - kVdsoBytes), kPageSize);
  if (auto r = map_vdso(image, vdso, process.family.clocks); !r) return cannot_map(program, r.error());
  contents.program_headers = elf->headers ? *bias + elf->headers : 0;
  contents.header_count = elf->header_count;
  contents.arguments = &image.arguments;
  contents.environment = &image.environment;
  contents.executable = called;
  contents.credentials = process.credentials();
  auto sp = build_stack(image, contents);
  if (!sp) return std::unexpected(sp.error());
  start.sp = *sp;
  return start;
}

}  // namespace

std::expected<Start, Failure> load(Process& process, const std::string& path, const std::vector<std::string>& arguments,
                                   const std::vector<std::string>& environment, std::uint64_t stack_bytes) {
  auto program = open_first(process.files, path);
  if (!program) return std::unexpected(program.error());
  std::vector<std::string> words{path};
  words.insert(words.end(), arguments.begin(), arguments.end());
  const std::string called = program->file->path;
  return load(process, *process.image(), std::move(*program), called, std::move(words), environment, stack_bytes);
}

std::expected<Start, Failure> load(Process& process, Image& image, std::shared_ptr<OpenFile> file,
                                   const std::string& name, const std::vector<std::string>& arguments,
                                   const std::vector<std::string>& environment, std::uint64_t stack_bytes) {
  auto program = check_file(std::move(file), name);
  if (!program) return std::unexpected(program.error());
  return load(process, image, std::move(*program), name, arguments, environment, stack_bytes);
}

const arch::GuestAbi* find_program_abi(const std::vector<Share>& shares, const std::string& path) {
  auto files = Files::create(shares);
  if (!files) return nullptr;
  auto program = open_first(*files, path);
  for (unsigned depth = 0; program && depth <= kMaxScripts; ++depth) {
    const auto line = script_line(*program);
    if (!line) {
      Elf64_Ehdr header;
      if (!program->read(0, std::as_writable_bytes(std::span(&header, 1))) ||
          std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
        return nullptr;
      return arch::find_guest_abi(header.e_machine);
    }
    program = open_shared(*files, line->front());
  }
  return nullptr;
}

}  // namespace ramet::vmm
