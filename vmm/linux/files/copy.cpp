// Copies between descriptors without the guest's memory: sendfile, copy_file_range, splice, tee.
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/save_points.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {
namespace {

OrErrno<std::shared_ptr<OpenFile>> open_for(Thread& thread, int fd, bool write) {
  auto file = thread.process.files.get(fd);
  if (!file || (file->flags & O_PATH)) return err(EBADF);
  if ((file->flags & O_ACCMODE) == (write ? O_RDONLY : O_WRONLY)) return err(EBADF);
  if (file->kind == OpenFile::Kind::Directory) return err(EINVAL);
  if (!write && thread.process.saving && thread.process.saving->at_read(thread, *file))
    return err(static_cast<int>(-kRestartNoIntr));
  return file;
}

// An offset in the guest's memory. `at` 0: the file's own offset instead.
struct Offset {
  mm::Gva at;
  std::int64_t value = 0;
  std::int64_t* pointer() { return at ? &value : nullptr; }
  std::int64_t given() const { return at ? value : kCurrentOffset; }
};

OrErrno<Offset> offset_at(Thread& thread, mm::Gva at) {
  Offset o{at};
  if (!at) return o;
  auto value = read_user<std::int64_t>(thread.memory(), at);
  if (!value) return err(value.error());
  o.value = *value;
  return o;
}

std::int64_t put_back(Thread& thread, const Offset& o, std::int64_t result) {
  if (!o.at || result < 0) return result;
  auto written = write_user(thread.memory(), o.at, o.value);
  return written ? result : -written.error();
}

// A memory file, which these calls do not write: only ordinary writes charge its growth, and programs fall back to
// them.
bool counted(const OpenFile& out) { return out.charge != nullptr; }

std::uint64_t word(const void* p) { return reinterpret_cast<std::uint64_t>(p); }
std::uint64_t word(int fd) { return static_cast<std::uint64_t>(fd); }
std::uint64_t bounded(std::uint64_t length) { return std::min(length, UserBuffers::kMaxBytes); }

std::int64_t after_write(Thread& thread, std::int64_t result) { return broken_pipe(thread, restartable(result)); }

std::int64_t sys_sendfile(Thread& thread, const Args& a) {
  auto out = open_for(thread, a.i32(0), true), in = open_for(thread, a.i32(1), false);
  if (!in) return -in.error();
  if (!out) return -out.error();
  auto offset = offset_at(thread, a[2]);
  if (!offset) return -offset.error();
  if (counted(**out)) return -EINVAL;
  auto length = room_to_write(thread, **out, kCurrentOffset, 0, bounded(a[3]));
  if (!length) return -length.error();
  std::int64_t n = thread.blocking(SYS_sendfile, word((*out)->host.get()), word((*in)->host.get()),
                                   word(offset->pointer()), *length);
  return put_back(thread, *offset, after_write(thread, n));
}

std::int64_t sys_copy_file_range(Thread& thread, const Args& a) {
  auto in = open_for(thread, a.i32(0), false), out = open_for(thread, a.i32(2), true);
  if (!in) return -in.error();
  if (!out) return -out.error();
  if (a.u32(5) != 0) return -EINVAL;
  auto from = offset_at(thread, a[1]), to = offset_at(thread, a[3]);
  if (!from || !to) return -EFAULT;
  if (counted(**out)) return -EXDEV;
  auto length = room_to_write(thread, **out, to->given(), 0, bounded(a[4]));
  if (!length) return -length.error();
  std::int64_t n = result_of(::syscall(SYS_copy_file_range, (*in)->host.get(), from->pointer(), (*out)->host.get(),
                                       to->pointer(), *length, 0));
  return put_back(thread, *to, put_back(thread, *from, n));
}

std::int64_t sys_splice(Thread& thread, const Args& a) {
  auto in = open_for(thread, a.i32(0), false), out = open_for(thread, a.i32(2), true);
  if (!in) return -in.error();
  if (!out) return -out.error();
  auto from = offset_at(thread, a[1]), to = offset_at(thread, a[3]);
  if (!from || !to) return -EFAULT;
  if (counted(**out)) return -EINVAL;
  auto length = room_to_write(thread, **out, to->given(), 0, bounded(a[4]));
  if (!length) return -length.error();
  std::int64_t n = thread.blocking(SYS_splice, word((*in)->host.get()), word(from->pointer()), word((*out)->host.get()),
                                   word(to->pointer()), *length, a.u32(5));
  return put_back(thread, *to, put_back(thread, *from, after_write(thread, n)));
}

std::int64_t sys_tee(Thread& thread, const Args& a) {
  auto in = open_for(thread, a.i32(0), false), out = open_for(thread, a.i32(1), true);
  if (!in) return -in.error();
  if (!out) return -out.error();
  return after_write(thread, thread.blocking(SYS_tee, word((*in)->host.get()), word((*out)->host.get()), bounded(a[2]),
                                             a.u32(3)));
}

}  // namespace

std::span<const Definition> copy_calls() {
  static constexpr Definition kCalls[] = {
      {Call::sendfile, sys_sendfile},
      {Call::copy_file_range, sys_copy_file_range},
      {Call::splice, sys_splice},
      {Call::tee, sys_tee},
  };
  return kCalls;
}

}  // namespace ramet::vmm
