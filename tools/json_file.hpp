// --json FILE: results for programs.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>

#include "vmm/error.hpp"

namespace ramet::tools {

// Replaces the file. Errors: it cannot be written, with the reason.
vmm::Status write_json(const std::string& path, const nlohmann::ordered_json& value);

}  // namespace ramet::tools
