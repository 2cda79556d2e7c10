// What a run cost, for people (as perf stat lays it out) and for programs (JSON).
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <vector>

#include "vmm/error.hpp"
#include "vmm/run.hpp"

namespace ramet::tools {

// A line each, as perf stat has it.
std::string lines(const vmm::Counts&);
std::string lines(const mm::Usage&);
nlohmann::ordered_json to_json(const vmm::Counts&);
nlohmann::ordered_json to_json(const mm::Usage&);

// To standard error.
void print_report(const vmm::Report&, const std::vector<std::string>& command);

// Errors: the file cannot be written.
vmm::Status write_report(const std::string& path, const vmm::Report&, const std::vector<std::string>& command);

}  // namespace ramet::tools
