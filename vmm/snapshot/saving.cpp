// The moment of saving: all threads stop, what the process is made of is collected, its pages are written.
#include "vmm/snapshot/saving.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/snapshot/collect.hpp"
#include "vmm/snapshot/writer.hpp"

namespace ramet::vmm::snapshot {

void Saving::continues(std::shared_ptr<const File> parent, std::vector<std::shared_ptr<mm::Bank>> banks) {
  parent_ = std::move(parent);
  banks_ = std::move(banks);
}

bool Saving::at_read(Thread& thread, const OpenFile& file) {
  if (!options_.at_read || file.standard != 0) return false;
  if (reads_.fetch_add(1, std::memory_order_relaxed) < options_.passed_reads) return false;
  save(thread, false, "first-read");
  return true;
}

void Saving::at_hook(Thread& thread, const std::string& name) {
  if (!options_.at_read && (options_.hook.empty() || options_.hook == name)) save(thread, true, name);
}

void Saving::save(Thread& thread, bool hook, const std::string& when) {
  Process& process = thread.process;
  if (!process.parking.stop_others(thread)) return;  // the thread comes here again, unless the process ends
  auto state = collect(thread, hook);
  Status done;
  if (state) {
    state->when = when;
    state->shares = options_.shares;
    done = write(thread, *state);
  } else {
    done = std::unexpected(state.error());
  }
  if (!done) process.end({Ending::Kind::Broken, 0, done.error().message});
  else process.end({Ending::Kind::Exited, 0, {}});
  outcome_ = std::move(done);
  process.parking.release();
}

namespace {

// Puts pages into the file, and makes the list of where they are.
class Pages {
 public:
  Pages(Writer& writer, const mm::Memory& memory, const std::vector<std::shared_ptr<mm::Bank>>& parents)
      : writer_(writer), memory_(memory), parents_(parents) {}

  // Errors: of the writer.
  Status add(const mm::Region& region, const mm::Extent& s) {
    const mm::Gva end = s.start + s.pages * kPageBytes;
    for (mm::Gva at = s.start; at < end;) {
      const mm::Gpa frame = s.frame + (at - s.start);
      const auto bank = memory_.bank_of(frame);
      const std::uint64_t bytes = piece(at, std::min(end - at, bank->end() - frame));
      if (auto old = in_parent(frame)) {
        append(region, {.start = at,
                        .page = old->page,
                        .pages = static_cast<std::uint32_t>(bytes / kPageBytes),
                        .source = old->source});
      } else if (auto done = add_new(region, at, {bank->at(frame), bytes}); !done) {
        return done;
      }
      at += bytes;
    }
    return {};
  }
  std::span<const Run> runs() const { return runs_; }

 private:
  // How much is added at once: a whole block, or a piece that may be all zeroes.
  static std::uint64_t piece(mm::Gva at, std::uint64_t most) {
    for (const std::uint64_t size : {mm::kBlockSize, 16 * kPageBytes})
      if (mm::is_aligned(at, size) && most >= size) return size;
    return kPageBytes;
  }

  std::optional<Run> in_parent(mm::Gpa frame) const {
    for (std::size_t i = 0; i < parents_.size(); ++i)
      if (parents_[i] && parents_[i]->contains(frame))
        return Run{.page = (frame - parents_[i]->base()) / kPageBytes, .source = static_cast<std::uint32_t>(i + 1)};
    return {};
  }

  Status add_new(const mm::Region& region, mm::Gva at, std::span<const std::byte> bytes) {
    if (!region.backing && mm::all_zero(bytes)) return {};  // as memory that was never touched
    if (bytes.size() == mm::kBlockSize)  // aligned in the file as in memory, it can be mapped as a block again
      if (auto done = writer_.skip(-writer_.pages() % mm::kPagesPerBlock); !done) return done;
    append(region,
           {.start = at, .page = writer_.pages(), .pages = static_cast<std::uint32_t>(bytes.size() / kPageBytes)});
    for (; !bytes.empty(); bytes = bytes.subspan(kPageBytes))
      if (auto done = writer_.add(bytes.first(kPageBytes)); !done) return done;
    return {};
  }

  // A run does not reach across regions.
  void append(const mm::Region& region, const Run& run) {
    if (!runs_.empty() && run.start != region.start) {
      Run& last = runs_.back();
      if (last.source == run.source && last.start + last.pages * kPageBytes == run.start &&
          last.page + last.pages == run.page) {
        last.pages += run.pages;
        return;
      }
    }
    runs_.push_back(run);
  }

  Writer& writer_;
  const mm::Memory& memory_;
  const std::vector<std::shared_ptr<mm::Bank>>& parents_;
  std::vector<Run> runs_;
};

}  // namespace

Status Saving::write(Thread& thread, ProcessState& state) {
  if (parent_) {
    std::error_code error;
    state.parent = std::filesystem::absolute(parent_->path(), error).string();
  }
  auto text = to_text(state);
  if (!text) return std::unexpected(text.error());
  auto writer = Writer::create(options_.path, thread.abi(), options_.compress);
  if (!writer) return std::unexpected(writer.error());
  Pages pages(**writer, thread.memory().physical(), banks_);
  Status added;
  thread.memory().visit_contents([&](const mm::Region& region, const mm::Extent& extent) {
    if (added && !region.wipe_on_fork) added = pages.add(region, extent);  // copies find zeroes there, as children do
  });
  if (!added) return added;
  return (*writer)->finish(*text, pages.runs(), parent_ ? parent_->header().identity : Hash{});
}

}  // namespace ramet::vmm::snapshot
