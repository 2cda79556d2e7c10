// The files that exist whatever is shared: /proc, /sys, /dev. Each by its absolute guest path. Their contents come from
// proc/, which defines the functions here whose names begin with proc_.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/linux/files/files.hpp"

namespace ramet::vmm {

struct Found;  // files/state.hpp
class Thread;

// Who asks: /proc/self and /proc/thread-self depend on it. process may be null (before there is one).
struct ProcContext {
  const Files::State& state;
  Process* process;
  int tid;  // 0: the first thread
};

// A file of a process: "maps" of /proc/5/maps; "" for the directory itself.
struct ProcPlace {
  std::string_view rest;
  int tid;
  bool task;  // below /proc/<pid>/task/<tid>
  std::shared_ptr<Process> process;
  ProcContext context() const;
};
// None for other paths, and where there is no such process. `path` outlives the result.
std::optional<ProcPlace> proc_place(const ProcContext&, std::string_view path);

struct ProcEntry {
  enum class Type : std::uint8_t { Directory, File, Link, OpenFile, Executable, Device };
  Type type = Type::File;
  std::string target;  // Link: its text; Device: the host's node; OpenFile, Executable: text of readlink
  std::shared_ptr<OpenFile> file;  // OpenFile: the descriptor it stands for
  unsigned minor = 0;  // Device: of major 1 (mem)
  // What open(2) gives, instead of its contents or the host's node; `flags`: open(2)'s. Null: those.
  OrErrno<std::shared_ptr<OpenFile>> (*open)(const Process&, int flags) = nullptr;
  mode_t mode = 0444;  // File, Device: its permissions
  uid_t user = 0;  // its owner
  gid_t group = 0;
};

// A name in a directory. Listings go on after the key they stopped at, so that entries may come and go
// meanwhile; keys are at least 3 and rise.
struct ProcName {
  std::string name;
  unsigned char type = 0;  // DT_*
  std::uint64_t key = 0;
};

// None if there is no such file, and for paths outside of /proc, /sys and /dev.
std::optional<ProcEntry> proc_lookup(const ProcContext&, const std::string& path);
// Contents of a File. Errors: ENOENT, EIO, ENOMEM.
OrErrno<std::string> proc_content(const ProcContext&, const std::string& path);
// Names in a Directory, in order of their keys.
std::vector<ProcName> proc_list(const ProcContext&, const std::string& path);
// Attributes as stat(2) shows them.
struct stat proc_stat(const std::string& path, const ProcEntry&);
// What reading and writing such a File does besides reading what open(2) found in it.
std::shared_ptr<FileOperations> proc_operations();

// --- synthetic.cpp ---
// open(2) of one that was found. Errors: those of open(2).
OrErrno<std::shared_ptr<OpenFile>> open_synthetic(Files::State&, const Found&, int flags, int tid);
// Gives a file of /proc or /sys its present contents, before it is read from its beginning. Kind::Synthetic only.
void refresh_synthetic(Thread&, const OpenFile&);

}  // namespace ramet::vmm
