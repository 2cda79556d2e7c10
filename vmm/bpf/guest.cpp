// Loading: programs, maps and helpers into a guest.
#include "vmm/bpf/guest.hpp"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "jit/check.hpp"
#include "jit/loader.hpp"
#include "vmm/bpf/guest_impl.hpp"
#include "vmm/bpf/print.hpp"
#include "vmm/host_time.hpp"

// helpers_object.S.
extern "C" const std::byte ramet_bpf_helpers[], ramet_bpf_helpers_end[];

namespace ramet::vmm::bpf {

namespace {

// helpers.bpf.c for one instruction set: the same in every guest.
struct Library {
  struct Function {
    const jit::Program* program;
    std::shared_ptr<const jit::Compiled> compiled;
  };
  jit::Object object;
  std::vector<Function> functions;

  explicit Library(jit::InstructionSet set)
      : object(jit::load_object({ramet_bpf_helpers, ramet_bpf_helpers_end}).value()) {
    const jit::Known known{.helpers = std::vector<bool>(VDSO_CLOCK + 1, true), .variables = {}};
    for (const jit::Program& p : object.programs) {
      const auto checked = jit::check(p, known);
      functions.push_back({&p, std::make_shared<const jit::Compiled>(jit::compile(checked.value(), set))});
    }
  }
};

const Library& library(jit::InstructionSet set) {
  static const Library x86(jit::InstructionSet::X86_64), arm(jit::InstructionSet::Arm64);
  return set == jit::InstructionSet::X86_64 ? x86 : arm;
}

// The N of "KIND/N".
std::optional<std::uint32_t> number_of(std::string_view section, std::string_view kind) {
  if (!section.starts_with(kind)) return std::nullopt;
  std::uint32_t n = 0;
  std::from_chars(section.data() + kind.size(), section.data() + section.size(), n);
  return n;
}

bool has_loop(const jit::Checked& program) {
  const auto* marks = program.marks();
  return std::any_of(marks, marks + program.instructions().size(),
                     [](std::uint8_t m) { return (m & jit::mark::kLoop) != 0; });
}

Failure no_memory(std::string_view what, mm::Error e) { return {fmt::format("{}: {}", what, mm::describe(e)), 125}; }

std::uint64_t negative(int error) { return static_cast<std::uint64_t>(-std::int64_t{error}); }

}  // namespace

std::expected<mm::Gva, Failure> Guest::Impl::place_stub(std::string name, std::span<const std::uint8_t> bytes) {
  const auto at = code->place(bytes, jit::alignment(false));
  if (!at) return std::unexpected(no_memory(name, at.error()));
  const auto length = static_cast<std::uint32_t>(bytes.size());
  placed.emplace(
      *at, Placed{{.name = std::move(name), .section = {}, .address = *at, .instructions = 0, .code_bytes = length},
                  nullptr,
                  false});
  return *at;
}

Status Guest::Impl::serve(std::uint32_t number, Helper helper) {
  if (number >= jit::kMostHelpers)
    return failure(
        fmt::format("helper {} is beyond {}, the last that programs can call", number, jit::kMostHelpers - 1));
  if (helpers.contains(number)) return failure(fmt::format("helper {} is there already", number));
  const auto stub = place_stub(fmt::format("helper {}", number), jit::helper_stub(set, number));
  if (!stub) return std::unexpected(stub.error());
  served.emplace(number, std::move(helper));
  helpers.emplace(number, *stub);
  return {};
}

std::expected<Program, Failure> Guest::Impl::place(const jit::Program& p, std::shared_ptr<const jit::Compiled> compiled,
                                                   bool loops, std::span<const Map> of, bool helper) {
  const auto resolve = [&](const jit::Relocation& r) RAMET_REQUIRES(lock) -> std::uint64_t {
    switch (r.kind) {
      case jit::Relocation::Kind::Helper: return helpers.at(r.number);
      case jit::Relocation::Kind::Map: return of[r.number].header;
      case jit::Relocation::Kind::MapValue: return of[r.number].data + r.offset;
      case jit::Relocation::Kind::Variable: break;  // check() knows none
    }
    return 0;
  };
  const auto at = code->place(*compiled, jit::alignment(loops), resolve);
  if (!at) return std::unexpected(no_memory(p.name, at.error()));
  Program program{.name = p.name,
                  .section = p.section,
                  .address = *at,
                  .instructions = static_cast<std::uint32_t>(p.instructions.size()),
                  .code_bytes = static_cast<std::uint32_t>(compiled->code().size())};
  placed.emplace(*at, Placed{program, std::move(compiled), helper});
  return program;
}

std::expected<Program, Failure> Guest::Impl::load(const jit::Program& p, std::span<const Map> of) {
  jit::Known known;
  known.helpers.resize(helpers.empty() ? 0 : helpers.rbegin()->first + 1);
  for (const auto& [number, address] : helpers) known.helpers[number] = number != VDSO_CLOCK;
  const auto checked = jit::check(p, known);
  if (!checked) return failure(fmt::format("program {}: {}", p.name, checked.error().said()), 126);
  return place(p, std::make_shared<const jit::Compiled>(jit::compile(*checked, set)), has_loop(*checked), of);
}

Status Guest::Impl::load_helpers() {
  const Library& all = library(set);
  std::vector<Map> of;
  for (const auto& d : all.object.maps) {
    auto map = make_map(memory(), d);
    if (!map) return std::unexpected(map.error());
    of.push_back(std::move(*map));
  }
  for (std::size_t i = 0; i < of.size(); ++i)
    if (auto done = finish_map(memory(), all.object.maps[i], of[i], of); !done) return done;
  const mm::Gva clock = shell->machine().host_vdso().clock_gettime;
  if (clock) helpers.emplace(VDSO_CLOCK, clock);
  for (const auto& f : all.functions) {
    const auto clock_number = number_of(f.program->section, "clock/");
    if (clock_number && !clock) continue;
    const auto program = place(*f.program, f.compiled, true, of, true);
    if (!program) return std::unexpected(program.error());
    if (const auto number = clock_number ? clock_number : number_of(f.program->section, "helper/"))
      helpers.emplace(*number, program->address);
    else host_programs.emplace(f.program->section, *program);
  }
  return {};
}

Status Guest::Impl::begin() {
  set = abi().elf_machine == EM_X86_64 ? jit::InstructionSet::X86_64 : jit::InstructionSet::Arm64;
  code = std::make_unique<jit::CodeSpace>(memory(), set, kCode, kCodeBytes);
  const auto at = place_stub("entry", jit::entry_code(set).code);
  if (!at) return std::unexpected(at.error());
  entry = *at;
  if (auto done = load_helpers(); !done) return done;
  if (auto done = start_watch(); !done) return done;
  if (!helpers.contains(BPF_FUNC_ktime_get_ns)) {
    for (const auto& [number, clock] :
         {std::pair{BPF_FUNC_ktime_get_ns, CLOCK_MONOTONIC}, std::pair{BPF_FUNC_ktime_get_boot_ns, CLOCK_BOOTTIME}}) {
      const auto now = [clock](mm::AddressSpace&, const Arguments&) {
        return static_cast<std::uint64_t>(host_time(clock)->count());
      };
      if (auto done = serve(number, now); !done) return done;
    }
  }
  const auto printed = [trace = options.trace](const std::expected<std::string, int>& line) {
    if (!line) return negative(line.error());
    if (trace) trace(*line);
    return std::uint64_t{line->size()};
  };
  auto done = serve(BPF_FUNC_trace_printk, [printed](mm::AddressSpace& space, const Arguments& a) {
    return printed(print(space, a[0], a[1] & 0xffffffff, std::span(a).subspan(2)));
  });
  if (!done) return done;
  return serve(BPF_FUNC_trace_vprintk, [printed](mm::AddressSpace& space, const Arguments& a) {
    std::array<std::uint64_t, 12> values{};
    const std::uint64_t bytes = a[3] & 0xffffffff;
    if (bytes % 8 != 0 || bytes > sizeof values) return negative(EINVAL);
    if (!space.read(a[2], std::as_writable_bytes(std::span(values)).first(bytes))) return negative(EFAULT);
    return printed(print(space, a[0], a[1] & 0xffffffff, std::span(values).first(bytes / 8)));
  });
}

Guest::Guest(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

std::expected<std::unique_ptr<Guest>, Failure> Guest::create(const Options& options) {
  auto impl = std::make_unique<Impl>(options);
  auto shell = Shell::create(options.memory_bytes, options.techniques, options.machine);
  if (!shell) return std::unexpected(shell.error());
  impl->shell = std::move(*shell);
  std::unique_ptr<Guest> guest(new Guest(std::move(impl)));
  {
    LockGuard guard(guest->impl_->lock);
    if (auto done = guest->impl_->begin(); !done) return std::unexpected(done.error());
  }
  return guest;
}

Guest::~Guest() {
  Impl& m = *impl_;
  if (m.watch.joinable()) {
    {
      LockGuard guard(m.slots_lock);
      m.stop = true;
    }
    m.watched.notify_one();
    m.watch.join();
  }
  for (const auto& slot : m.slots) m.shell->machine().release_vcpu(slot->vcpu);
}

Status Guest::add_helper(std::uint32_t number, Helper helper) {
  LockGuard guard(impl_->lock);
  return impl_->serve(number, std::move(helper));
}

std::expected<Program, Failure> Guest::load(const jit::Program& p) {
  if (p.maps != 0) return failure(fmt::format("program {} names maps, which its object has", p.name), 126);
  LockGuard guard(impl_->lock);
  return impl_->load(p, {});
}

std::expected<Loaded, Failure> Guest::load(const jit::Object& object, std::string_view section) {
  Loaded loaded;
  Status done;
  {
    LockGuard guard(impl_->lock);
    done = impl_->load(object, section, loaded);
  }
  if (done && loaded.programs.empty())
    done = failure(section.empty() ? "the object has no program"
                                   : fmt::format("the object has no program in a section {}", section),
                   126);
  if (done) return loaded;
  unload(loaded);
  return std::unexpected(done.error());
}

// After a failure, `loaded` has what was loaded before it.
Status Guest::Impl::load(const jit::Object& object, std::string_view section, Loaded& loaded) {
  for (const auto& d : object.maps) {
    auto map = make_map(memory(), d);
    if (!map) return std::unexpected(map.error());
    maps.emplace(map->header, *map);
    loaded.maps.push_back(std::move(*map));
  }
  for (std::size_t i = 0; i < loaded.maps.size(); ++i)
    if (auto done = finish_map(memory(), object.maps[i], loaded.maps[i], loaded.maps); !done) return done;
  for (const auto& p : object.programs) {
    if (!section.empty() && p.section != section) continue;
    auto program = load(p, loaded.maps);
    if (!program) return std::unexpected(program.error());
    loaded.programs.push_back(std::move(*program));
  }
  return {};
}

void Guest::unload(const Program& p) {
  LockGuard guard(impl_->lock);
  if (impl_->placed.erase(p.address) != 0)
    (void)impl_->code->remove(p.address);  // fails if there is no memory to overwrite it: then it stays
}

void Guest::unload(const Loaded& loaded) {
  for (const Program& p : loaded.programs) unload(p);
  LockGuard guard(impl_->lock);
  for (const Map& m : loaded.maps)
    if (impl_->maps.erase(m.header) != 0) drop_map(memory(), m);
}

std::expected<std::unique_ptr<Guest>, Failure> Guest::fork() {
  Impl& from = *impl_;
  const LockGuard loading(from.lock);  // nothing is loaded meanwhile
  auto shell = from.shell->fork();
  if (!shell) return std::unexpected(shell.error());
  auto impl = std::make_unique<Impl>(from.options);
  impl->shell = std::move(*shell);
  impl->set = from.set;
  impl->code = std::make_unique<jit::CodeSpace>(impl->memory(), *from.code);
  impl->entry = from.entry;
  {
    LockGuard copying(impl->lock);
    impl->placed = from.placed, impl->maps = from.maps, impl->helpers = from.helpers;
    impl->host_programs = from.host_programs, impl->served = from.served;
  }
  impl->unlock_maps(~0u);
  std::unique_ptr<Guest> guest(new Guest(std::move(impl)));
  if (auto done = guest->impl_->start_watch(); !done) return std::unexpected(done.error());
  return guest;
}

mm::AddressSpace& Guest::memory() { return impl_->memory(); }
Shell& Guest::shell() { return *impl_->shell; }
std::uint64_t Guest::compact() { return impl_->code->compact(); }
jit::InstructionSet Guest::instruction_set() const { return impl_->set; }
std::vector<mm::Gva> Guest::code_blocks() const { return impl_->code->blocks(); }

Guest::CodeUsage Guest::code_usage() const {
  const auto usage = impl_->code->usage();
  return {.programs = usage.pieces, .bytes = usage.bytes, .blocks = usage.blocks};
}

std::expected<std::vector<std::byte>, int> Guest::Impl::ask(std::string_view what, const Map& map,
                                                            std::span<const std::byte> key,
                                                            std::span<const std::byte> value, std::uint64_t flags,
                                                            std::uint32_t vcpu) {
  const std::uint64_t key_bytes = mm::align_up(map.key_size, 8);
  if (map.key_size == 0 || key.size() != map.key_size || vcpu >= MOST_VCPUS) return std::unexpected(EINVAL);
  std::vector<std::byte> buffer(sizeof(struct request) + key_bytes + mm::align_up(map.value_size, 8));
  struct request request{.map = map.header, .flags = flags, .result = 0, .vcpu = vcpu, .reserved = 0};
  std::memcpy(buffer.data(), &request, sizeof request);
  std::ranges::copy(key, buffer.begin() + sizeof request);
  std::ranges::copy(value, buffer.begin() + static_cast<std::ptrdiff_t>(sizeof request + key_bytes));
  const Program& program = [&]() -> const Program& {
    SharedLock guard(lock);
    return host_programs.find(what)->second;  // never removed
  }();
  Call call{.program = &program, .context = buffer};
  this->call(std::span(&call, 1));
  if (call.outcome.kind != Outcome::Kind::Returned) return std::unexpected(EIO);
  return buffer;
}

namespace {

std::int64_t result_of(std::span<const std::byte> answer) {
  std::int64_t result;
  std::memcpy(&result, answer.data() + offsetof(struct request, result), sizeof result);
  return result;
}

// A helper whose map was overwritten may return anything: EIO if that is no error number.
std::expected<void, int> error_of(const std::expected<std::vector<std::byte>, int>& answer) {
  if (!answer) return std::unexpected(answer.error());
  const std::int64_t result = result_of(*answer);
  if (result == 0) return {};
  return std::unexpected(result < 0 && result > -4096 ? static_cast<int>(-result) : EIO);
}

}  // namespace

std::expected<std::vector<std::byte>, int> Guest::lookup(const Map& map, std::span<const std::byte> key,
                                                         std::uint32_t vcpu) {
  auto answer = impl_->ask("host/lookup", map, key, {}, 0, vcpu);
  if (!answer) return answer;
  if (result_of(*answer) == 0) return std::unexpected(ENOENT);
  const auto value = answer->begin() +
                     static_cast<std::ptrdiff_t>(sizeof(struct request) + mm::align_up(map.key_size, 8));
  return std::vector<std::byte>(value, value + map.value_size);
}

std::expected<void, int> Guest::update(const Map& map, std::span<const std::byte> key, std::span<const std::byte> value,
                                       std::uint64_t flags, std::uint32_t vcpu) {
  if (value.size() != map.value_size) return std::unexpected(EINVAL);
  return error_of(impl_->ask("host/update", map, key, value, flags, vcpu));
}

std::expected<void, int> Guest::erase(const Map& map, std::span<const std::byte> key) {
  return error_of(impl_->ask("host/erase", map, key, {}, 0, 0));
}

std::expected<std::vector<std::byte>, int> Guest::next(const Map& map, std::span<const std::byte> key) {
  const std::vector<std::byte> none(map.key_size);
  auto answer = impl_->ask("host/next", map, key.empty() ? none : key, {}, key.empty(), 0);
  if (!answer) return answer;
  if (result_of(*answer) == 0) return std::unexpected(ENOENT);
  const auto at = answer->begin() + sizeof(struct request);
  return std::vector<std::byte>(at, at + map.key_size);
}

std::expected<std::vector<std::vector<std::byte>>, Failure> Guest::consume(const Map& map) {
  return consume_ring(memory(), map);
}

}  // namespace ramet::vmm::bpf
