#include "tools/continue.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "tools/commands.hpp"
#include "tools/soft_program.hpp"
#include "vmm/snapshot/restore.hpp"

namespace ramet::tools {

using vmm::snapshot::File;
using vmm::snapshot::Pager;

namespace {

// The guest waits for a page that cannot be had, and goes no further.
[[noreturn]] void give_up(const vmm::Failure& failure) {
  refuse(failure);
  _exit(kCannot);
}

bool may_be_written(const File& file, const std::vector<vmm::Share>& shares) {
  std::error_code gone;  // then nothing matches
  for (const File* f = &file; f; f = f->parent().get()) {
    const std::string path = std::filesystem::weakly_canonical(f->path(), gone).string();
    for (const vmm::Share& share : shares) {
      std::string top = std::filesystem::weakly_canonical(share.host, gone).string();
      if (!top.ends_with('/')) top += '/';
      if (share.writable && path.starts_with(top)) return true;
    }
  }
  return false;
}

}  // namespace

std::uint64_t saved_memory(const File& file) {
  return std::clamp(file.state().memory_bytes, vmm::kMinMemory, vmm::kMaxMemory);
}

vmm::Status Continuation::open_pages(bool files) {
  LockGuard guard(opening_);
  if (pager_) return {};
  const auto how = may_be_written(*file_, prepared_.run.shares) ? Pager::How::Copied
                   : eager_                                     ? Pager::How::Checked
                                                                : Pager::How::Lazily;
  auto pager = Pager::create(file_, give_up, how, files);
  if (!pager) return std::unexpected(pager.error());
  if (!(*pager)->not_lazy().empty())
    refuse({.message = fmt::format("{}; all of {} is read first", (*pager)->not_lazy(), file_->path())});
  (*pager)->fetch_ahead();
  pager_ = std::move(*pager);
  return {};
}

Continuation::Continuation(std::shared_ptr<const File> file, Prepared& prepared, bool eager)
    : file_(std::move(file)), prepared_(prepared), eager_(eager) {
  if (prepared.machine.kind == vmm::MachineChoice::Kind::Auto) prepared.machine.abi = &file_->abi();
  use_soft_program(prepared.machine);  // it may execute another program, so before the command reads its input
}

std::expected<Restored, vmm::Failure> Continuation::restore() {
  Restored r;
  auto shell = make_shell(prepared_);
  if (!shell) return std::unexpected(shell.error());
  r.shell = std::move(*shell);
  if (auto opened = open_pages(r.shell->machine().needs().files); !opened) return std::unexpected(opened.error());
  auto files = vmm::Files::create(prepared_.run.shares);
  if (!files) return std::unexpected(files.error());
  r.files = std::make_unique<vmm::Files>(std::move(*files));
  auto banks = restore_memory(file_, pager_, *r.shell, *r.files);
  if (!banks) return std::unexpected(banks.error());
  r.banks = std::move(*banks);
  return r;
}

}  // namespace ramet::tools
