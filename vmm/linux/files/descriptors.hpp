// Descriptors: the open files of a process by number (Linux: files_struct). A look-up takes no lock.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {

struct OpenFile;

struct Descriptor {
  int number = -1;
  std::shared_ptr<OpenFile> file;
  bool close_on_exec = false;
};

// Thread-safe. Files that are taken out are returned, so that the caller drops them without the lock: the host may take
// long to close a file.
class Descriptors {
 public:
  Descriptors();
  // fork(2): the same files at the same numbers. Numbers that threads of the parent have reserved are free.
  Descriptors(const Descriptors& parent);
  Descriptors& operator=(const Descriptors&) = delete;
  ~Descriptors();

  // Null if nothing is open there. The result stays valid when the number is closed meanwhile. Read-copy-update
  // (guest-mm/rcu.hpp): a slot leads to an Entry, which is freed once no look-up can be reading it.
  std::shared_ptr<OpenFile> get(int number) const;
  std::optional<bool> close_on_exec(int number) const RAMET_EXCLUDES(lock_);  // none: nothing is open there
  bool set_close_on_exec(int number, bool close_on_exec) RAMET_EXCLUDES(lock_);  // false: nothing is open there
  std::vector<Descriptor> list() const RAMET_EXCLUDES(lock_);  // in order of their numbers
  bool holds(const OpenFile&) const RAMET_EXCLUDES(lock_);  // whether some number leads to the file

  // The lowest free number in [from, limit), taken for the file. Errors: EMFILE.
  OrErrno<int> install(std::shared_ptr<OpenFile>, bool close_on_exec, std::size_t from, std::size_t limit)
      RAMET_EXCLUDES(lock_);
  // Two at once, or none.
  OrErrno<std::array<int, 2>> install_pair(std::shared_ptr<OpenFile>, std::shared_ptr<OpenFile>, bool close_on_exec,
                                           std::size_t limit) RAMET_EXCLUDES(lock_);
  // A number without a file: closed to all calls, but not free. set() or give_back() follows. Errors: EMFILE.
  OrErrno<int> reserve(std::size_t limit) RAMET_EXCLUDES(lock_);
  void give_back(int reserved) RAMET_EXCLUDES(lock_);
  // dup2(2): `to` becomes another number of `from`'s file. Returns the file that was at `to`, or null. Errors: EBADF,
  // EBUSY where `to` is reserved.
  OrErrno<std::shared_ptr<OpenFile>> duplicate(std::size_t from, std::size_t to, bool close_on_exec, std::size_t limit)
      RAMET_EXCLUDES(lock_);
  // The file takes the place of what is there. The number is not negative; it is reserved, or the guest does not run
  // yet.
  void set(Descriptor) RAMET_EXCLUDES(lock_);

  std::shared_ptr<OpenFile> close(int number) RAMET_EXCLUDES(lock_);  // null: nothing was open there
  // Of the numbers from `first` to `last`, both included.
  std::vector<std::shared_ptr<OpenFile>> close_range(std::size_t first, std::size_t last) RAMET_EXCLUDES(lock_);
  void close_range_on_exec(std::size_t first, std::size_t last) RAMET_EXCLUDES(lock_);
  std::vector<std::shared_ptr<OpenFile>> exec() RAMET_EXCLUDES(lock_);  // execve(2): closes those with FD_CLOEXEC
  std::vector<std::shared_ptr<OpenFile>> close_all() RAMET_EXCLUDES(lock_);

 private:
  struct Slot {
    std::shared_ptr<OpenFile> file;
    bool close_on_exec = false;
    bool reserved = false;
  };
  // Weak, so that closing the last descriptor closes the file at once, not after a grace period.
  struct Entry {
    const std::weak_ptr<OpenFile> file;
    std::unique_ptr<Entry> next;  // in retired_; guarded by lock_
  };
  struct Index {
    explicit Index(std::size_t size) : entries(size) {}
    std::vector<std::atomic<Entry*>> entries;
  };
  class Change;

  const Slot* open_slot(int number) const RAMET_REQUIRES(lock_);
  std::optional<int> free_number(std::size_t from, std::size_t limit) RAMET_REQUIRES(lock_);
  void make_room(std::size_t size) RAMET_REQUIRES(lock_);
  void retire(Entry*) RAMET_REQUIRES(lock_);
  // Returns the file that was there.
  std::shared_ptr<OpenFile> replace(std::size_t number, Slot) RAMET_REQUIRES(lock_);

  mutable Mutex lock_;  // innermost
  std::vector<Slot> slots_ RAMET_GUARDED_BY(lock_);
  // The newest of indices_, at least as long as slots_. Stored with release under lock_; pairs with get()'s acquire.
  // Former indices are kept, as look-ups may be reading them; together they are no longer than the newest.
  std::atomic<Index*> index_{nullptr};
  std::vector<std::unique_ptr<Index>> indices_ RAMET_GUARDED_BY(lock_);
  // Entries taken out of the index, which look-ups may still be reading. Linked, so that closing allocates nothing.
  std::unique_ptr<Entry> retired_ RAMET_GUARDED_BY(lock_);
  std::size_t retired_count_ RAMET_GUARDED_BY(lock_) = 0;
};

}  // namespace ramet::vmm
