// For tests of eBPF guests: the suite, with functions.bpf.c in a guest, and programs to load there.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "jit/loader.hpp"
#include "tests/bpf/machines.hpp"
#include "tests/jit/assembler.hpp"
#include "vmm/bpf/guest.hpp"

namespace ramet::vmm::bpf {

struct Words {
  std::uint64_t word[4];
};
inline std::span<std::byte> bytes_of(Words& w) { return std::as_writable_bytes(std::span(&w, 1)); }
template <class T>
std::span<const std::byte> key_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}
inline std::uint64_t number_in(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.data(), std::min(sizeof value, bytes.size()));
  return value;
}

inline jit::Object functions() {
  // Beside this program, wherever that has been taken.
  std::ifstream file(std::filesystem::read_symlink("/proc/self/exe").parent_path() / "bpf/functions.o",
                     std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  auto object = jit::load_object(std::as_bytes(std::span(text)));
  EXPECT_TRUE(object) << (object ? "" : object.error());
  return object ? std::move(*object) : jit::Object();
}

inline jit::Program program(jit::test::Code code) {
  return {.name = "test", .section = {}, .instructions = std::move(code)};
}

// Instantiated in guest_test.cpp.
class BpfGuest : public ::testing::TestWithParam<MachineChoice::Kind> {
 protected:
  void SetUp() override {
    if (GetParam() == MachineChoice::Kind::Kvm) NEED_KVM();
  }
  Options options() const {
    Options o;
    o.machine.kind = GetParam();
    return o;
  }
  std::unique_ptr<Guest> make(const Options& o) {
    auto guest = Guest::create(o);
    EXPECT_TRUE(guest) << (guest ? "" : guest.error().message);
    return guest ? std::move(*guest) : nullptr;
  }
  std::unique_ptr<Guest> make() { return make(options()); }
  // All of functions.bpf.c.
  struct Functions {
    std::unique_ptr<Guest> guest;
    Loaded loaded;
    const Program& operator[](std::string_view name) const {
      return *std::ranges::find(loaded.programs, "call/" + std::string(name), &Program::section);
    }
    const Map& map(std::string_view name) const { return *std::ranges::find(loaded.maps, name, &Map::name); }
    Outcome call(std::string_view section, Words w) const { return guest->call((*this)[section], bytes_of(w)); }
  };
  Functions load_functions(const Options& o) {
    Functions f{make(o), {}};
    auto loaded = f.guest->load(functions());
    EXPECT_TRUE(loaded) << (loaded ? "" : loaded.error().message);
    f.loaded = std::move(*loaded);
    return f;
  }
  Functions load_functions() { return load_functions(options()); }
  static std::uint64_t exits(Guest& guest) {
    const auto t = guest.shell().machine().totals();
    return t.syscalls + t.page_faults + t.exceptions;
  }
  static void expect_returned(const Outcome& o, std::uint64_t r0) {
    EXPECT_EQ(o.kind, Outcome::Kind::Returned) << o.detail;
    EXPECT_EQ(o.r0, r0);
  }
};

}  // namespace ramet::vmm::bpf
