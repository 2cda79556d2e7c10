// What continuing a snapshot file costs: from opening it to the program's first instruction, and until it has read a
// word of every page; plain files and compressed ones, with and without what the first run noted for fetching ahead.
// bench_restore [--machine=NAME] [Google Benchmark's options]; RESTORE_MIB sets the size, 1024 without it.
#include <benchmark/benchmark.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <string>

#include "bench/samples.hpp"
#include "bench/vms.hpp"
#include "vmm/run.hpp"
#include "vmm/snapshot/restore.hpp"

namespace {

using namespace ramet;
using bench::give_up, bench::microseconds, bench::must, bench::Samples;

std::string mib() {
  const char* given = std::getenv("RESTORE_MIB");
  return given ? given : "1024";
}

// The files of all runs, gone at the end.
class Directory {
 public:
  Directory() {
    std::string name = (std::filesystem::temp_directory_path() / "ramet-restore-XXXXXX").string();
    if (!::mkdtemp(name.data())) give_up("no temporary directory");
    path_ = name;
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  std::string saved(bool compress) {
    const std::string file = path_ / (compress ? "compressed" : "plain");
    if (std::filesystem::exists(file)) return file;
    vmm::RunOptions options;
    options.program = RESTORE_GUEST;
    options.arguments = {mib()};
    options.memory_bytes = (std::stoull(mib()) + 64) << 20;
    options.saving = std::make_shared<vmm::snapshot::Saving>(
        vmm::snapshot::SaveOptions{.path = file, .hook = {}, .compress = compress, .shares = {}});
    auto shell = must(vmm::Shell::create(options.memory_bytes, {}, bench::machine_choice));
    auto report = must(vmm::run(*shell, options));
    if (!options.saving->outcome()) give_up("the program was not saved: " + report.ending.message);
    must(*options.saving->outcome());
    return file;
  }

 private:
  std::filesystem::path path_;
};

Directory& directory() {
  static Directory one;
  return one;
}

void restore(benchmark::State& state, bool compress, bool ahead) {
  const std::string path = directory().saved(compress);
  std::filesystem::remove(path + ".ws");
  Samples first, last;
  std::uint64_t touched = 0;
  for (auto _ : state) {
    const int out = ::memfd_create("out", MFD_CLOEXEC);
    const std::uint64_t begin = ramet_ticks();
    auto file = must(vmm::snapshot::File::open(path));
    auto shell = must(vmm::Shell::create(file->state().memory_bytes, {}, bench::machine_choice));
    auto files = must(vmm::Files::create({}));
    using vmm::snapshot::Pager;
    auto pager = must(Pager::create(
        file, [](const vmm::Failure& f) { give_up(f.message); }, Pager::How::Lazily, shell->machine().needs().files));
    if (ahead) pager->fetch_ahead();
    must(vmm::snapshot::restore_memory(file, pager, *shell, files));
    vmm::RunOptions options;
    options.standard = {0, out, 2};
    options.from = file;
    auto report = must(vmm::run(*shell, options));
    std::array<char, 200> text{};
    unsigned long long at_first = 0, at_last = 0;
    if (::pread(out, text.data(), text.size() - 1, 0) < 0 ||
        std::sscanf(text.data(), "%llu %llu", &at_first, &at_last) != 2)
      give_up("the program said nothing: " + report.ending.message);
    ::close(out);
    first.add(microseconds(begin, at_first));
    last.add(microseconds(begin, at_last) / 1e3);
    touched = pager->counts().faults;
    if (ahead) pager->keep_working_set();
    state.SetIterationTime(first.values.back() / 1e6);
  }
  state.counters["first_us"] = first.median();
  state.counters["first_least_us"] = first.least();
  state.counters["last_ms"] = last.median();
  state.counters["touches"] = double(touched);
  state.counters["file_MiB"] = double(std::filesystem::file_size(path) >> 20);
}

BENCHMARK_CAPTURE(restore, mapped, false, false)->UseManualTime()->Iterations(7)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(restore, mapped_ahead, false, true)->UseManualTime()->Iterations(7)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(restore, compressed, true, false)->UseManualTime()->Iterations(5)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(restore, compressed_ahead, true, true)->UseManualTime()->Iterations(5)->Unit(benchmark::kMicrosecond);

}  // namespace

int main(int argc, char** argv) { return bench::run_benchmarks(argc, argv); }
