// --json FILE: results for programs.
#pragma once

#include <cstdio>
#include <expected>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "vmm/error.hpp"

namespace ramet::tools {

// Replaces the file. Errors: it cannot be written, with the reason.
vmm::Status write_file(const std::string& path, const std::string& text);
vmm::Status write_json(const std::string& path, const nlohmann::ordered_json& value);

// A file that holds an array, written as it grows, a line an element.
class JsonArrayFile {
 public:
  // Replaces the file. Errors: it cannot be written, with the reason.
  static std::expected<std::unique_ptr<JsonArrayFile>, vmm::Failure> create(const std::string& path);
  ~JsonArrayFile();
  JsonArrayFile(const JsonArrayFile&) = delete;
  JsonArrayFile& operator=(const JsonArrayFile&) = delete;
  void add(const nlohmann::ordered_json& element);
  // After the last one. Errors: something could not be written.
  vmm::Status finish();

 private:
  JsonArrayFile(std::string path, std::FILE* file) : path_(std::move(path)), file_(file) {}
  std::string path_;
  std::FILE* file_;
  bool empty_ = true;
};

}  // namespace ramet::tools
