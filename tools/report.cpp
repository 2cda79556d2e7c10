#include "tools/report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/json_file.hpp"

namespace ramet::tools {
namespace {

double seconds(std::chrono::nanoseconds t) { return static_cast<double>(t.count()) / 1e9; }

// 1234567 -> "1,234,567", as perf stat prints counts.
std::string grouped(std::uint64_t n) {
  std::string digits = std::to_string(n), out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string line(std::uint64_t value, std::string_view name, std::string_view note = {}) {
  return fmt::format("{:>18}      {:<26}{}{}\n", grouped(value), name, note.empty() ? "" : "  # ", note);
}

constexpr std::size_t kCallsShown = 6;

std::string most_frequent(const vmm::Counts& calls) {
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < calls.size() && i < kCallsShown; ++i)
    parts.push_back(fmt::format("{} {}", calls[i].first, calls[i].second));
  return fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace

std::string lines(const vmm::Counts& counts) {
  std::string out;
  for (const auto& [name, value] : counts) out += line(value, name);
  return out;
}

std::string lines(const mm::Usage& u) {
  return line(u.data_pages_4k, "frames:4K") + line(u.data_blocks_2m, "frames:2M") +
         line(u.shared_pages, "frames:shared-file") + line(u.table_pages, "frames:table") +
         line(u.peak_bytes >> 10, "memory-peak-KiB", fmt::format("of {} MiB", u.limit_bytes >> 20)) +
         line(u.held_bytes >> 10, "held-KiB", "by the VMM for the guest") +
         line(u.peak_held_bytes >> 10, "held-peak-KiB");
}

nlohmann::ordered_json to_json(const vmm::Counts& counts) {
  auto j = nlohmann::ordered_json::object();
  for (const auto& [name, value] : counts) j[name] = value;
  return j;
}

nlohmann::ordered_json to_json(const mm::Usage& u) {
  return {{"4K", u.data_pages_4k},         {"2M", u.data_blocks_2m},
          {"shared-file", u.shared_pages}, {"table", u.table_pages},
          {"peak-bytes", u.peak_bytes},    {"limit-bytes", u.limit_bytes},
          {"held-bytes", u.held_bytes},    {"held-peak-bytes", u.peak_held_bytes}};
}

void print_report(const vmm::Report& r, const std::vector<std::string>& command) {
  double run = seconds(r.run);
  std::string out = fmt::format("\n Counters for '{}' (machine: {}):\n\n", fmt::join(command, " "), r.machine);
  const std::uint64_t exits = r.exits.exits();
  out += line(exits, "exits", run > 0 ? fmt::format("{:.1f} K/sec", static_cast<double>(exits) / run / 1e3) : "");
  out += line(r.exits.syscalls, "  exits:syscall", most_frequent(r.calls));
  out += line(r.exits.page_faults, "  exits:page-fault");
  out += line(r.exits.exceptions, "  exits:exception");
  out += line(r.exits.kicks, "  exits:kick");
  out += line(r.exits.flush_exits, "  exits:flush");
  if (r.exits.fills) {
    out += line(r.exits.fills, "fills");
    out += line(r.exits.refills, "refills");
    out += line(r.exits.mappings, "mappings");
    out += line(r.exits.evictions, "evictions");
  }
  out += lines(r.memory_counters);
  out += line(r.exits.flushes, "flushes:local");
  out += line(r.exits.spurious, "flushes:spurious");
  out += lines(r.device_counters);
  out += lines(r.usage);
  out += line(r.family_held_bytes >> 10, "held-shared-KiB", "for open files of all processes");
  out += line(r.family_peak_held_bytes >> 10, "held-shared-peak-KiB");
  out += line(r.threads, "threads");
  for (const auto& [name, value] : r.unknown_calls) out += line(value, "not-served:" + name, "answered ENOSYS");
  fmt::print(stderr, "{}\n{:>18.6f} seconds in the guest, {:.6f} set-up, {:.6f} teardown\n\n", out, run,
             seconds(r.setup), seconds(r.teardown));
}

vmm::Status write_report(const std::string& path, const vmm::Report& r, const std::vector<std::string>& command) {
  nlohmann::ordered_json j;
  j["command"] = command;
  j["machine"] = r.machine;
  j["status"] = r.ending.status();
  j["message"] = r.ending.message;
  j["seconds"] = {{"run", seconds(r.run)}, {"setup", seconds(r.setup)}, {"teardown", seconds(r.teardown)}};
  j["exits"] = {{"total", r.exits.exits()},        {"syscall", r.exits.syscalls}, {"page-fault", r.exits.page_faults},
                {"exception", r.exits.exceptions}, {"kick", r.exits.kicks},       {"flush", r.exits.flush_exits}};
  if (r.exits.fills)
    j["host-mappings"] = {{"fills", r.exits.fills},
                          {"refills", r.exits.refills},
                          {"mappings", r.exits.mappings},
                          {"evictions", r.exits.evictions}};
  auto& memory = j["memory"] = to_json(r.memory_counters);
  memory["flushes:local"] = r.exits.flushes;
  memory["flushes:spurious"] = r.exits.spurious;
  j["devices"] = to_json(r.device_counters);
  j["frames"] = to_json(r.usage);
  j["held-shared"] = {{"bytes", r.family_held_bytes}, {"peak-bytes", r.family_peak_held_bytes}};
  j["threads"] = r.threads;
  j["calls"] = to_json(r.calls);
  j["not-served"] = to_json(r.unknown_calls);

  return write_json(path, j);
}

}  // namespace ramet::tools
