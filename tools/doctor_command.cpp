// `ramet doctor`: what this host can do, and what to do about what it lacks.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "arch/arm64/guest_abi.hpp"
#include "arch/host_processor.hpp"
#include "tools/commands.hpp"
#include "tools/json_file.hpp"
#include "tools/run_options.hpp"
#include "tools/soft_program.hpp"
#include "vmm/probe.hpp"

namespace ramet::tools {
namespace {

vmm::Finding arm64_guests() {
  vmm::Finding f{.name = "arm64 guests",
                 .value = "the software CPU, without isolation",
                 .ok = true,
                 .required = false,
                 .advice = {}};
  if (soft_program().empty()) {
    f.ok = false;
    f.value = "ramet was built without the software CPU";
    f.advice = "install libdynarmic-dev and build ramet again";
  }
  return f;
}

int doctor(const std::string& json) {
  auto findings = vmm::doctor();
  if (&arch::host_abi() != &arch::arm64::kGuestAbi) findings.push_back(arm64_guests());
  bool usable = true;
  nlohmann::ordered_json j = nlohmann::ordered_json::array();
  for (const auto& f : findings) {
    fmt::print("{} {:<34} {}\n", f.ok ? "ok  " : "lack", f.name, f.value);
    if (!f.advice.empty()) fmt::print("     -> {}\n", f.advice);
    if (f.required && !f.ok) usable = false;
    j.push_back({{"name", f.name}, {"value", f.value}, {"ok", f.ok}, {"required", f.required}, {"advice", f.advice}});
  }
  if (!json.empty())
    if (auto written = write_json(json, j); !written) return refuse(written.error());
  return usable ? 0 : kCannot;
}

}  // namespace

void add_doctor(CLI::App& app, Action& action) {
  auto json = std::make_shared<std::string>();
  CLI::App* sub = app.add_subcommand("doctor", "Say what this host can do, and what to do about what it lacks");
  sub->add_option("--json", *json, "write the same results to FILE");
  sub->callback([&action, json] { action = [json] { return doctor(*json); }; });
}

}  // namespace ramet::tools
