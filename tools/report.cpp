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

void line(std::uint64_t value, std::string_view name, std::string_view note = {}) {
  fmt::print(stderr, "{:>18}      {:<26}{}{}\n", grouped(value), name, note.empty() ? "" : "  # ", note);
}

std::uint64_t exits(const vmm::Report& r) {
  return r.exits.syscalls + r.exits.page_faults + r.exits.exceptions + r.exits.kicks + r.exits.flush_exits;
}

constexpr std::size_t kCallsShown = 6;

std::string most_frequent(const std::vector<std::pair<std::string, std::uint64_t>>& calls) {
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < calls.size() && i < kCallsShown; ++i)
    parts.push_back(fmt::format("{} {}", calls[i].first, calls[i].second));
  return fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace

void print_report(const vmm::Report& r, const std::vector<std::string>& command) {
  double run = seconds(r.run);
  fmt::print(stderr, "\n Counters for '{}':\n\n", fmt::join(command, " "));
  line(exits(r), "exits", run > 0 ? fmt::format("{:.1f} K/sec", static_cast<double>(exits(r)) / run / 1e3) : "");
  line(r.exits.syscalls, "  exits:syscall", most_frequent(r.calls));
  line(r.exits.page_faults, "  exits:page-fault");
  line(r.exits.exceptions, "  exits:exception");
  line(r.exits.kicks, "  exits:kick");
  line(r.exits.flush_exits, "  exits:flush");
  for (const auto& [name, value] : r.memory_counters) line(value, name);
  line(r.exits.flushes, "flushes:local");
  line(r.exits.spurious, "flushes:spurious");
  const mm::Usage& u = r.usage;
  line(u.data_pages_4k, "frames:4K");
  line(u.data_blocks_2m, "frames:2M");
  line(u.shared_pages, "frames:shared-file");
  line(u.table_pages, "frames:table");
  line(u.peak_bytes >> 10, "memory-peak-KiB", fmt::format("of {} MiB", u.limit_bytes >> 20));
  line(r.threads, "threads");
  if (!r.unknown_calls.empty())
    for (const auto& [name, value] : r.unknown_calls) line(value, "not-served:" + name, "answered ENOSYS");
  fmt::print(stderr, "\n{:>18.6f} seconds in the guest, {:.6f} set-up, {:.6f} teardown\n\n", run, seconds(r.setup),
             seconds(r.teardown));
}

vmm::Status write_report(const std::string& path, const vmm::Report& r, const std::vector<std::string>& command) {
  nlohmann::ordered_json j;
  j["command"] = command;
  j["status"] = r.ending.status();
  j["message"] = r.ending.message;
  j["seconds"] = {{"run", seconds(r.run)}, {"setup", seconds(r.setup)}, {"teardown", seconds(r.teardown)}};
  j["exits"] = {{"total", exits(r)},          {"syscall", r.exits.syscalls}, {"page-fault", r.exits.page_faults},
                {"exception", r.exits.exceptions}, {"kick", r.exits.kicks},      {"flush", r.exits.flush_exits}};
  auto& memory = j["memory"] = nlohmann::ordered_json::object();
  for (const auto& [name, value] : r.memory_counters) memory[name] = value;
  memory["flushes:local"] = r.exits.flushes;
  memory["flushes:spurious"] = r.exits.spurious;
  j["frames"] = {{"4K", r.usage.data_pages_4k}, {"2M", r.usage.data_blocks_2m}, {"shared-file", r.usage.shared_pages},
                 {"table", r.usage.table_pages}, {"peak-bytes", r.usage.peak_bytes}, {"limit-bytes", r.usage.limit_bytes}};
  j["threads"] = r.threads;
  auto& calls = j["calls"] = nlohmann::ordered_json::object();
  for (const auto& [name, value] : r.calls) calls[name] = value;
  auto& unknown = j["not-served"] = nlohmann::ordered_json::object();
  for (const auto& [name, value] : r.unknown_calls) unknown[name] = value;

  return write_json(path, j);
}

}  // namespace ramet::tools
