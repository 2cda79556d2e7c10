#include "tools/json_file.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

namespace ramet::tools {

vmm::Status write_json(const std::string& path, const nlohmann::ordered_json& value) {
  // Arguments and paths of a guest need not be UTF-8: what is not is replaced.
  std::string text = value.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  std::FILE* file = std::fopen(path.c_str(), "w");
  bool ok = file && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (file) ok = std::fclose(file) == 0 && ok;
  if (!ok) return vmm::failure(fmt::format("cannot write {}: {}", path, std::strerror(errno)));
  return {};
}

}  // namespace ramet::tools
