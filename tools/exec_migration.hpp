// `ramet bench exec-migration`: M pages of code move to other frames, N of them run afterwards; what that costs where
// fetches are made to see the copies at once (eager), when they run (lazy), or as it turned out better (adaptive).
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace ramet::tools {

struct Table {
  std::string title;
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> notes = {};
  std::vector<std::size_t> plotted = {};  // columns of numbers over the first one
};
using Progress = std::function<void(std::string_view)>;

std::vector<Table> exec_migration(bool quick, const Progress&);
// The part of it that compares reasons to migrate: programs' code moves for each of them, then requests are served.
std::vector<Table> migration_workloads(bool quick, const Progress&);

}  // namespace ramet::tools
