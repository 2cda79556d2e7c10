// A guest that is driven from a test: its system calls are made by number, on its own memory, without a vCPU.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <utility>

#include "tests/vmm/fake_machine.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/syscall.hpp"
#include "vmm/linux/user_memory.hpp"
#include "vmm/signals_blocked.hpp"

namespace ramet::vmm {

namespace fs = std::filesystem;

// A directory on the host that goes away with the test.
class Scratch {
 public:
  Scratch() {
    char name[] = "/tmp/ramet-files-XXXXXX";
    path = ::mkdtemp(name);
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  void file(const std::string& name, const std::string& text) const { std::ofstream(path / name) << text; }
  void dir(const std::string& name) const { fs::create_directories(path / name); }
  void link(const std::string& name, const std::string& target) const { fs::create_symlink(target, path / name); }
  std::string text(const std::string& name) const {
    std::ifstream in(path / name);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  fs::path path;
};

// A shell on a machine that runs nothing. `physical`: of all that share memory; null: of this one.
inline std::shared_ptr<Shell> make_fake_shell(std::shared_ptr<mm::PhysicalSpace> physical = {}) {
  auto machine = std::make_unique<FakeMachine>();
  auto memory = *mm::Memory::create({.data_bytes = 64 << 20, .table_bytes = 16 << 20, .space = std::move(physical)});
  if (!memory->observe(*machine)) std::abort();
  auto space = *mm::AddressSpace::create({}, *memory, *machine);
  return std::make_shared<Shell>(std::move(memory), std::move(machine), std::move(space));
}

class Guest {
 public:
  explicit Guest(const std::vector<Share>& shares) : Guest(shares, make_fake_shell()) {}
  Guest(const std::vector<Share>& shares, std::shared_ptr<Shell> shell) : shell_(std::move(shell)) {
    auto files = Files::create(shares);
    if (!files) throw std::runtime_error(files.error().message);
    process = std::make_shared<Process>(family_, family_.first_id(), std::make_shared<Image>(shell_),
                                        std::move(*files));
    if (!family_.add(process, 0, SIGCHLD, 1)) std::abort();
    process->image()->executable = "/bin/program";
    process->image()->arguments = {"program", "argument"};
    process->threads.push_back(std::make_unique<Thread>(*process, process->image(), machine.vcpu, process->pid));
    thread = process->threads.back().get();
    buffer = *space_->map(
        {.length = kBuffer, .prot = mm::Prot::Read | mm::Prot::Write, .backing = nullptr, .name = {}});
  }
  ~Guest() { process->threads.clear(); }

  // Sets how many descriptors the guest may have, and returns the former limit.
  rlim64_t limit_files(rlim64_t most) {
    LockGuard guard(process->limits.lock);
    return std::exchange(process->limits.value[RLIMIT_NOFILE].rlim_cur, most);
  }

  std::int64_t call(const char* name, std::initializer_list<std::uint64_t> arguments) {
    static const auto handlers = [] {
      std::map<std::string, Handler> h;
      for (auto list : {file_calls(), path_calls(), event_calls(), socket_calls(), memory_calls(), memory_lock_calls()})
        for (const Definition& d : list) h[syscall_name(d.call)] = d.handler;
      return h;
    }();
    Args args;
    std::copy(arguments.begin(), arguments.end(), args.v.begin());
    auto handler = handlers.find(name);
    if (handler == handlers.end()) throw std::runtime_error(std::string("no such call: ") + name);
    next_ = buffer;
    return handler->second(*thread, args);
  }
  // Puts something into guest memory for the next call.
  std::uint64_t put(std::string_view text) {
    std::string with_end(text);
    with_end.push_back('\0');
    return put_bytes(std::as_bytes(std::span(with_end)));
  }
  template <class T>
  std::uint64_t put_object(const T& value) {
    return put_bytes(std::as_bytes(std::span(&value, 1)));
  }
  std::uint64_t room(std::size_t bytes) { return put_bytes(std::vector<std::byte>(bytes)); }
  template <class T>
  T get(std::uint64_t at) {
    return *read_user<T>(*space_, at);
  }
  std::string bytes(std::uint64_t at, std::size_t count) {
    std::string out(count, '\0');
    EXPECT_TRUE(space_->read(at, std::as_writable_bytes(std::span(out))));
    return out;
  }

  std::int64_t open(std::string_view path, int flags = O_RDONLY, unsigned mode = 0644) {
    return call("open", {put(path), static_cast<std::uint64_t>(flags), mode});
  }
  std::string read_all(std::int64_t fd, std::size_t most = 65536) {
    std::uint64_t at = room(most);
    std::int64_t n = call("read", {static_cast<std::uint64_t>(fd), at, most});
    return n < 0 ? "error " + std::to_string(-n) : bytes(at, static_cast<std::size_t>(n));
  }
  // What open and read give: the text, or "error N".
  std::string cat(std::string_view path) {
    std::int64_t fd = open(path);
    if (fd < 0) return "error " + std::to_string(-fd);
    std::string text = read_all(fd);
    call("close", {static_cast<std::uint64_t>(fd)});
    return text;
  }
  std::int64_t write(std::int64_t fd, std::string_view text) {
    std::uint64_t at = put(text);
    return call("write", {static_cast<std::uint64_t>(fd), at, text.size()});
  }
  // Mode of what stat (or lstat) finds, or -errno.
  std::int64_t mode(std::string_view path, const char* how = "stat") {
    std::uint64_t p = put(path), out = room(sizeof(struct stat));
    std::int64_t r = call(how, {p, out});
    return r < 0 ? r : static_cast<std::int64_t>(get<struct stat>(out).st_mode);
  }
  std::string link(std::string_view path) {
    std::uint64_t p = put(path), out = room(4096);
    std::int64_t n = call("readlink", {p, out, 4096});
    return n < 0 ? "error " + std::to_string(-n) : bytes(out, static_cast<std::size_t>(n));
  }
  std::string cwd() {
    std::uint64_t out = room(4096);
    std::int64_t n = call("getcwd", {out, 4096});
    return n <= 0 ? "error " + std::to_string(-n) : bytes(out, static_cast<std::size_t>(n) - 1);
  }
  // Names in a directory, as they come; at most `room_bytes` a call.
  std::vector<std::string> names(std::int64_t fd, std::size_t room_bytes = 4096) {
    std::vector<std::string> all;
    for (;;) {
      std::uint64_t at = room(room_bytes);
      std::int64_t n = call("getdents64", {static_cast<std::uint64_t>(fd), at, room_bytes});
      if (n < 0) return {"error " + std::to_string(-n)};
      if (n == 0) return all;
      std::string data = bytes(at, static_cast<std::size_t>(n));
      for (std::size_t i = 0; i < data.size();) {
        std::uint16_t length;
        std::memcpy(&length, data.data() + i + 16, 2);
        all.emplace_back(data.c_str() + i + 19);
        i += length;
      }
    }
  }

  mm::AddressSpace& memory() { return *space_; }

 private:
  const std::shared_ptr<Shell> shell_;
  Family family_{*shell_};
  mm::AddressSpace* const space_ = &shell_->memory();
  std::uint64_t next_ = 0;
  const CallerSignals signals_;  // the test's thread is the guest's

 public:
  FakeMachine& machine = static_cast<FakeMachine&>(shell_->machine());
  std::shared_ptr<Process> process;
  Thread* thread = nullptr;
  mm::Gva buffer = 0;
  static constexpr std::size_t kBuffer = 16 << 20;

 private:
  std::uint64_t put_bytes(std::span<const std::byte> data) {
    std::uint64_t at = next_ ? next_ : buffer;
    EXPECT_TRUE(space_->write(at, data));
    next_ = (at + data.size() + 15) & ~std::uint64_t{15};
    return at;
  }
};

// A program with one directory that it may write, as /w.
struct Work {
  Scratch s;
  Guest g{{{s.path.string(), "/w", true}}};
};

inline std::uint64_t as_word(std::int64_t v) { return static_cast<std::uint64_t>(v); }
inline std::set<std::string> as_set(const std::vector<std::string>& names) { return {names.begin(), names.end()}; }
inline std::string error(int e) { return "error " + std::to_string(e); }

}  // namespace ramet::vmm
