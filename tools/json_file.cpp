#include "tools/json_file.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

namespace ramet::tools {
namespace {

// Arguments and paths of a guest need not be UTF-8: what is not is replaced.
std::string text_of(const nlohmann::ordered_json& value, int indent) {
  return value.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::unexpected<vmm::Failure> cannot_write(const std::string& path) {
  return vmm::failure(fmt::format("cannot write {}: {}", path, std::strerror(errno)));
}

}  // namespace

vmm::Status write_file(const std::string& path, const std::string& text) {
  std::FILE* file = std::fopen(path.c_str(), "w");
  bool ok = file && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (file) ok = std::fclose(file) == 0 && ok;
  if (!ok) return cannot_write(path);
  return {};
}

vmm::Status write_json(const std::string& path, const nlohmann::ordered_json& value) {
  return write_file(path, text_of(value, 2) + "\n");
}

std::expected<std::unique_ptr<JsonArrayFile>, vmm::Failure> JsonArrayFile::create(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "we");
  if (!file) return cannot_write(path);
  return std::unique_ptr<JsonArrayFile>(new JsonArrayFile(path, file));
}

JsonArrayFile::~JsonArrayFile() { std::fclose(file_); }

void JsonArrayFile::add(const nlohmann::ordered_json& element) {
  std::fputs(empty_ ? "[\n" : ",\n", file_);  // fputs: fmt::print throws where it cannot write
  std::fputs(text_of(element, -1).c_str(), file_);
  empty_ = false;
}

vmm::Status JsonArrayFile::finish() {
  std::fputs(empty_ ? "[]\n" : "\n]\n", file_);
  if (std::fflush(file_) != 0 || std::ferror(file_)) return cannot_write(path_);
  return {};
}

}  // namespace ramet::tools
