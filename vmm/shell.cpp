// Making shells.
#include "vmm/shell.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "vmm/exit_cost.hpp"
#include "vmm/frozen_vm.hpp"
#include "vmm/kick_signal.hpp"

namespace ramet::vmm {
namespace {

// Room for the tables of the guest's memory however sparsely it is used, within reason: a program that
// touches one page in each 2 MiB of --memory still fits. Taken from the host only as tables are made.
std::uint64_t table_bytes(std::uint64_t memory_bytes) {
  return mm::align_up(std::min<std::uint64_t>((8ull << 20) + memory_bytes / 32, 2ull << 30), mm::kBlockSize);
}

// More frames than the guest may use at a time: those that only its children still see do not count against its limit,
// but keep their addresses. At most so many that a thousand VMs find addresses.
std::uint64_t bank_bytes(std::uint64_t memory_bytes, mm::Gpa addresses) {
  const std::uint64_t wanted = memory_bytes + std::min<std::uint64_t>(3 * memory_bytes, 16ull << 30);
  return std::max(memory_bytes, std::min(wanted, addresses / 1024));
}

}  // namespace

Shell::Shell(std::unique_ptr<mm::Memory> memory, std::unique_ptr<Machine> machine,
             std::unique_ptr<mm::AddressSpace> space, MakeShell make)
    : memory_bytes_(space->usage().limit_bytes), make_(std::move(make)), physical_(std::move(memory)),
      machine_(std::move(machine)), space_(std::move(space)) {}

Shell::~Shell() {
  space_.reset();
  if (physical_) physical_->unobserve();
}

std::expected<std::unique_ptr<Shell>, Failure> Shell::create(std::uint64_t memory_bytes, const Techniques& techniques,
                                                             const MachineChoice& choice,
                                                             std::shared_ptr<mm::PhysicalSpace> space_of_all) {
  install_kick_signal();
  std::unique_ptr<Shell> shell(new Shell);
  shell->memory_bytes_ = memory_bytes;
  shell->techniques_ = techniques;
  auto made = make_machine(choice);
  if (!made) return std::unexpected(made.error());
  shell->choice_ = made->choice;
  shell->passed_over_ = std::move(made->passed_over);
  shell->machine_ = std::move(made->machine);
  shell->physical_space_ = space_of_all
                               ? std::move(space_of_all)
                               : std::make_shared<mm::PhysicalSpace>(shell->machine_->features().physical_bits);
  auto out_of_memory = [&](mm::Error e) {
    return failure(
        fmt::format("the host cannot give a guest {} MiB of memory: {}", memory_bytes >> 20, mm::describe(e)));
  };
  memory_bytes = mm::align_up(memory_bytes, mm::kBlockSize);
  auto physical = mm::Memory::create({.data_bytes = bank_bytes(memory_bytes, shell->physical_space_->limit()),
                                      .table_bytes = table_bytes(memory_bytes),
                                      .space = shell->physical_space_,
                                      .files = shell->machine_->needs().files});
  if (!physical) return out_of_memory(physical.error());
  shell->physical_ = std::move(*physical);
  if (auto r = shell->physical_->observe(*shell->machine_); !r) return out_of_memory(r.error());

  mm::AddressSpace::Config config;
  config.format = shell->machine_->needs().format;
  config.limit_bytes = memory_bytes;
  const arch::GuestAbi& abi = shell->machine_->abi();
  config.end = abi.user_end;
  config.tag_bits = abi.tag_bits;
  config.mmap_top = abi.mmap_top;
  config.pinned_cow = techniques.pinned_cow;
  config.speculative_faults = techniques.speculative_faults;
  config.relaxed_flushes = techniques.relaxed_flushes;
  config.exec_sync = techniques.exec_sync;
  config.merge = techniques.huge_merge;
  config.giants = shell->machine_->features().giant_pages;
  config.eager_accessed_dirty = shell->machine_->features().dear_accessed_dirty;
  config.mmap_top -= mm::align_down(shell->machine_->code_places().mappings % abi.mmap_spread, mm::kBlockSize);
  if (techniques.exec_sync == mm::AddressSpace::ExecSync::Adaptive && shell->machine_->needs_exec_sync())
    config.exit_cost = exit_cost(shell->choice_);
  auto space = mm::AddressSpace::create(config, *shell->physical_, *shell->machine_);
  if (!space) return out_of_memory(space.error());
  shell->space_ = std::move(*space);
  if (auto r = shell->machine_->attach(*shell->space_); !r) return std::unexpected(r.error());
  return shell;
}

std::expected<std::unique_ptr<Shell>, Failure> Shell::fork() {
  auto child = another();
  if (!child) return child;
  auto frozen = space_->freeze();
  mm::Result<> done;
  if (!frozen) done = mm::fail(frozen.error());
  else done = (*child)->space_->adopt(*frozen);
  if (!done) return failure(fmt::format("the guest cannot be forked: {}", mm::describe(done.error())));
  space_->copy_hot(**frozen);
  (*child)->machine_->expect(machine_->touched());
  return child;
}

std::expected<std::shared_ptr<FrozenVm>, Failure> Shell::freeze() {
  auto memory = space_->freeze();
  if (!memory) return failure(fmt::format("the VM cannot be frozen: {}", mm::describe(memory.error())));
  if (auto r = machine_->move_on(); !r) return std::unexpected(r.error());
  return std::make_shared<FrozenVm>(*this, std::move(*memory));
}

Status Shell::adopt(std::shared_ptr<const mm::FrozenMemory> memory) {
  if (auto r = space_->adopt(memory); !r)
    return failure(fmt::format("no VM can be spawned: {}", mm::describe(r.error())));
  origin_ = std::move(memory);
  return {};
}

Status Shell::reset() {
  if (!origin_) return failure("only a VM that was spawned can be reset");
  // First, so that what the guest has made of its host process writes nothing into memory that is reset.
  if (auto r = machine_->renew(); !r) return r;
  if (auto r = space_->reset(*origin_); !r)
    return failure(fmt::format("the VM cannot be reset: {}", mm::describe(r.error())));
  return {};
}

std::expected<std::unique_ptr<Shell>, Failure> Shell::another() const { return take_ ? take_() : maker()(); }

MakeShell Shell::maker() const {
  if (make_) return make_;
  return [bytes = memory_bytes_, techniques = techniques_, space = physical_space_, choice = choice_] {
    return create(bytes, techniques, choice, space);
  };
}

}  // namespace ramet::vmm
