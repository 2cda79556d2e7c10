// Objects as clang makes them, whole and damaged.
#include "jit/loader.hpp"

#include <gtest/gtest.h>
#include <linux/bpf.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "jit/check.hpp"
#include "tests/jit/interpreter.hpp"
#include "tests/jit/objects.hpp"

namespace ramet::jit::test {
namespace {

const Known kAllHelpers{.helpers = std::vector<bool>(256, true), .variables = {}};

const MapDefinition& map_called(const Object& object, const std::string& name) {
  const auto found = std::ranges::find(object.maps, name, &MapDefinition::name);
  EXPECT_NE(found, object.maps.end()) << name;
  return *found;
}

// Global data of an object, with its pointers made.
struct Data {
  explicit Data(const Object& object) {
    for (const MapDefinition& map : object.maps) values.push_back(map.contents);
    for (std::size_t m = 0; m < values.size(); ++m)
      for (const auto& p : object.maps[m].pointers) {
        const std::uint64_t address = reinterpret_cast<std::uint64_t>(values[p.map].data()) + p.offset;
        std::memcpy(values[m].data() + p.at, &address, sizeof address);
      }
  }
  std::uint64_t run(const Program& program, Interpreter::Helper helper) {
    const auto checked = check(program, kAllHelpers);
    EXPECT_TRUE(checked) << checked.error().said();
    if (!checked) return 0;
    Interpreter interpreter;
    interpreter.helper = [&](std::uint32_t) { return helper; };
    interpreter.address = [&](Wide wide, std::uint32_t number, std::uint32_t offset) {
      return wide == Wide::Map ? number : reinterpret_cast<std::uint64_t>(values[number].data()) + offset;
    };
    return interpreter.run(*checked, 0, 0).value();
  }
  std::vector<std::vector<std::byte>> values;
};

std::uint64_t nothing(std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t) { return 0; }

TEST(Loader, ReadsMapsThatBtfDescribes) {
  const auto object = load_object(read_object("maps"));
  ASSERT_TRUE(object) << object.error();
  EXPECT_EQ(object->licence, "Dual BSD/GPL");
  const MapDefinition& hash = map_called(*object, "by_number");
  EXPECT_EQ(hash.type, BPF_MAP_TYPE_HASH);
  EXPECT_EQ(hash.key_size, 4u);
  EXPECT_EQ(hash.value_size, 16u);
  EXPECT_EQ(hash.max_entries, 1000u);
  const MapDefinition& events = map_called(*object, "events");
  EXPECT_EQ(events.type, BPF_MAP_TYPE_RINGBUF);
  EXPECT_EQ(events.max_entries, 4096u);
}

TEST(Loader, ReadsMapsThatStructuresDefine) {
  const auto object = load_object(read_object("legacy_maps"));
  ASSERT_TRUE(object) << object.error();
  const MapDefinition& second = map_called(*object, "second");
  EXPECT_EQ(second.type, BPF_MAP_TYPE_HASH);
  EXPECT_EQ(second.key_size, 8u);
  EXPECT_EQ(second.value_size, 24u);
  EXPECT_EQ(second.max_entries, 100u);
  EXPECT_EQ(second.flags, 1u);
  // Helper 1 gives what it was asked in: two maps, two numbers.
  Data data(*object);
  EXPECT_EQ(data.run(object->programs.at(0),
                     [](std::uint64_t map, std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t) { return map; }),
            0u);
}

TEST(Loader, SettlesCallsAcrossSectionsAndAddressesOfData) {
  const auto object = load_object(read_object("maps"));
  ASSERT_TRUE(object) << object.error();
  ASSERT_EQ(object->programs.size(), 2u);
  EXPECT_EQ(object->programs[0].name, "found");
  EXPECT_EQ(object->programs[0].section, "first");
  EXPECT_TRUE(map_called(*object, ".rodata").read_only);
  Data data(*object);
  EXPECT_EQ(data.run(object->programs[0], nothing), 80u);
  EXPECT_EQ(data.run(object->programs[1], nothing), 129u);
  EXPECT_EQ(data.run(object->programs[0], nothing), 86u);
}

TEST(Loader, RefusesWhatIsNoObjectForEbpf) {
  const auto said = [](std::vector<std::byte> bytes) { return load_object(bytes).error(); };
  EXPECT_EQ(said({}), "this is no ELF object");
  EXPECT_EQ(said(std::vector<std::byte>(100)), "this is no ELF object");
  auto object = read_object("maps");
  object[18] = std::byte{62};
  EXPECT_EQ(said(object), "the object is not a relocatable one for eBPF");
}

TEST(Loader, TakesTruncatedAndDamagedObjects) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (const char* name : {"maps", "legacy_maps"}) {
    const auto whole = read_object(name);
    // The section headers, at the end, are missing from each of these.
    for (std::size_t length = 0; length < whole.size(); length += 1 + length / 50) {
      const auto loaded = load_object(std::span(whole).first(length));
      ASSERT_FALSE(loaded) << length;
      EXPECT_FALSE(loaded.error().empty());
    }
    for (unsigned round = 0; round < 2000; ++round) {
      auto damaged = whole;
      for (unsigned n = 0; n < 1 + round % 4; ++n)
        damaged[random() % damaged.size()] = static_cast<std::byte>(random());
      const auto loaded = load_object(damaged);
      if (!loaded) {
        EXPECT_FALSE(loaded.error().empty());
        continue;
      }
      for (const Program& program : loaded->programs) (void)check(program, kAllHelpers);
    }
  }
}

}  // namespace
}  // namespace ramet::jit::test
