// `ramet bench`: measurements that need nothing but this program.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "tools/commands.hpp"
#include "tools/exec_migration.hpp"
#include "tools/json_file.hpp"
#include "tools/run_options.hpp"

namespace ramet::tools {
namespace {

struct BenchOptions {
  std::vector<std::string> names;
  std::string json, html;
  bool quick = false;
};

struct Bench {
  const char *name, *what;
  std::vector<Table> (*run)(bool quick, const Progress&);
};
constexpr Bench kBenches[] = {
    {"exec-migration",
     "code that moves: when fetches are made to see it, at once or when it runs, by how much of it runs",
     exec_migration},
};

void print(const Table& t) {
  fmt::print("\n{}\n", t.title);
  for (const auto& name : t.columns) fmt::print("{:>14}", name);
  fmt::print("\n");
  for (const auto& row : t.rows) {
    for (const auto& cell : row) fmt::print("{:>14}", cell);
    fmt::print("\n");
  }
  for (const auto& note : t.notes) fmt::print("  {}\n", note);
}

nlohmann::ordered_json to_json(const Table& t) {
  return {{"title", t.title}, {"columns", t.columns}, {"rows", t.rows}, {"notes", t.notes}};
}

// A page with the tables; of those whose cells are numbers, a plot: the first column is x, each other one a line.
std::string to_html(const std::vector<Table>& tables) {
  std::string page =
      "<!doctype html><meta charset=utf-8><title>ramet bench</title>\n<style>body{font:14px sans-serif}td,th{padding:2px 12px;text-align:right}"
      "svg{border:1px solid #ccc}</style>\n";
  constexpr const char* kColours[] = {"#c33", "#36c", "#393", "#c80", "#808", "#088"};
  constexpr double kWidth = 480, kHeight = 240;
  for (const Table& t : tables) {
    page += fmt::format("<h2>{}</h2>\n<table><tr>", t.title);
    for (const auto& c : t.columns) page += fmt::format("<th>{}", c);
    for (const auto& row : t.rows) {
      page += "\n<tr>";
      for (const auto& cell : row) page += fmt::format("<td>{}", cell);
    }
    page += "\n</table>\n";
    for (const auto& note : t.notes) page += fmt::format("<p>{}\n", note);
    if (t.plotted.empty() || t.rows.size() < 2) continue;
    double widest = 0, highest = 0;
    for (const auto& row : t.rows) {
      widest = std::max(widest, std::atof(row[0].c_str()));
      for (const std::size_t c : t.plotted) highest = std::max(highest, std::atof(row[c].c_str()));
    }
    page += fmt::format("<svg width={} height={}>\n", kWidth, kHeight);
    for (std::size_t n = 0; n < t.plotted.size(); ++n) {
      const char* colour = kColours[n % std::size(kColours)];
      std::string points;
      for (const auto& row : t.rows)
        points += fmt::format("{:.1f},{:.1f} ", widest > 0 ? std::atof(row[0].c_str()) / widest * kWidth : 0,
                              kHeight -
                                  (highest > 0 ? std::atof(row[t.plotted[n]].c_str()) / highest * (kHeight - 20) : 0));
      page += fmt::format(
          "<polyline points=\"{}\" fill=none stroke=\"{}\" stroke-width=2 /><text x=8 y={} fill=\"{}\">{}</text>\n",
          points, colour, 16 * (n + 1), colour, t.columns[t.plotted[n]]);
    }
    page += "</svg>\n";
  }
  return page;
}

int bench(const BenchOptions& o) {
  if (o.names.empty() || o.names[0] == "list") {
    for (const Bench& b : kBenches) fmt::print("{:<18}{}\n", b.name, b.what);
    return 0;
  }
  std::vector<Table> tables;
  for (const auto& name : o.names) {
    const auto found = std::ranges::find_if(kBenches, [&](const Bench& b) { return name == b.name; });
    if (found == std::end(kBenches))
      return refuse({fmt::format("there is no benchmark {} (see ramet bench list)", name)});
    const auto progress = [&](std::string_view what) { fmt::print(stderr, "{}: {}\n", name, what); };
    for (auto& t : found->run(o.quick, progress)) {
      print(t);
      tables.push_back(std::move(t));
    }
  }
  if (!o.json.empty()) {
    auto all = nlohmann::ordered_json::array();
    for (const auto& t : tables) all.push_back(to_json(t));
    if (auto written = write_json(o.json, all); !written) return refuse(written.error());
  }
  if (!o.html.empty())
    if (auto written = write_file(o.html, to_html(tables)); !written) return refuse(written.error());
  return 0;
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* sub = app.add_subcommand("bench", "Measure what moving code costs, and more: ramet bench list");
  sub->add_option("NAME", options->names, "list, or benchmarks");
  sub->add_option("--json", options->json, "write the same tables to FILE");
  sub->add_option("--html", options->html, "the same, with plots");
  sub->add_flag("--quick", options->quick, "fewer pages and rounds");
  sub->callback([&action, options] { action = [options] { return bench(*options); }; });
}

}  // namespace ramet::tools
