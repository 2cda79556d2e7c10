#include "tests/fuzz/system_calls/host.hpp"

#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "tests/fuzz/system_calls/script.hpp"

namespace ramet::fuzz {
namespace {

namespace fs = std::filesystem;

std::set<std::string> names(const std::string& directory) {
  std::set<std::string> found;
  DIR* d = ::opendir(directory.c_str());
  if (!d) finding("cannot list " + directory);
  while (dirent* e = ::readdir(d))
    if (e->d_name[0] != '.') found.insert(e->d_name);
  ::closedir(d);
  return found;
}

// Empty: gone meanwhile.
std::string name_of(const std::string& thread) {
  char name[32] = {};
  const int fd = ::open(("/proc/self/task/" + thread + "/comm").c_str(), O_RDONLY | O_CLOEXEC);
  const ssize_t n = fd < 0 ? -1 : ::read(fd, name, sizeof name);
  if (fd >= 0) ::close(fd);
  return n <= 0 ? std::string() : std::string(name, static_cast<std::size_t>(n));
}

std::string beyond(const std::set<std::string>& now, const std::set<std::string>& before) {
  std::string text;
  for (const std::string& name : now)
    if (!before.contains(name)) text += name + " ";
  return text;
}

std::set<std::string> threads_now() {
  std::set<std::string> found;
  // The kernel's own for a ring of the host stay for seconds with the thread that used the ring.
  for (const std::string& thread : names("/proc/self/task"))
    if (const std::string name = name_of(thread); !name.empty() && !name.starts_with("iou-"))
      found.insert(thread + " " + name);
  return found;
}

std::int64_t nanoseconds(const timespec& t) { return t.tv_sec * 1'000'000'000 + t.tv_nsec; }

void write_file(const std::string& path, const void* bytes, std::size_t size) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
  if (fd < 0 || ::write(fd, bytes, size) != static_cast<ssize_t>(size)) finding("cannot write " + path);
  ::close(fd);
}

// A program of one page, that is one segment; with an interpreter if there is one.
std::string program(const std::string& interpreter, std::uint8_t damage) {
  struct {
    Elf64_Ehdr header{};
    Elf64_Phdr segments[3]{};
    char name[64]{};
  } file;
  std::memcpy(file.header.e_ident, ELFMAG, SELFMAG);
  file.header.e_ident[EI_CLASS] = ELFCLASS64, file.header.e_ident[EI_DATA] = ELFDATA2LSB,
  file.header.e_ident[EI_VERSION] = 1;
  file.header.e_type = interpreter.empty() ? ET_EXEC : ET_DYN;
  file.header.e_machine = EM_X86_64, file.header.e_version = 1;
  file.header.e_entry = 0x400000 + 0x100;
  file.header.e_phoff = sizeof file.header, file.header.e_ehsize = sizeof file.header;
  file.header.e_phentsize = sizeof(Elf64_Phdr), file.header.e_phnum = interpreter.empty() ? 1 : 2;
  const Elf64_Addr base = interpreter.empty() ? 0x400000 : 0;
  file.segments[0] = {PT_LOAD, PF_R | PF_X, 0, base, base, sizeof file, 0x3000, 0x1000};
  file.segments[1] = {PT_INTERP, PF_R, sizeof file.header + sizeof file.segments, 0, 0, interpreter.size() + 1, 0, 1};
  std::memcpy(file.name, interpreter.c_str(), interpreter.size());
  std::string bytes(reinterpret_cast<const char*>(&file), sizeof file);
  if (damage) bytes[damage % (sizeof file.header + 56)] ^= static_cast<char>(damage | 1);
  return bytes;
}

}  // namespace

Host Host::now() {
  Host h;
  for (const std::string& fd : names("/proc/self/fd")) {
    std::error_code gone;
    const fs::path target = fs::read_symlink("/proc/self/fd/" + fd, gone);
    if (!gone) h.descriptors.insert(fd + " " + target.string());
  }
  h.threads = threads_now();
  h.directory = fs::current_path().string();
  h.mask = ::umask(0);
  ::umask(h.mask);
  pthread_sigmask(SIG_SETMASK, nullptr, &h.blocked);
  for (int i = 0; i < RLIM_NLIMITS; ++i)
    ::getrlimit(static_cast<__rlimit_resource_t>(i), &h.limits[static_cast<std::size_t>(i)]);
  return h;
}

void Host::compare(const Host& before) const {
  if (descriptors != before.descriptors)
    finding("descriptors: " + beyond(descriptors, before.descriptors) + "instead of " +
            beyond(before.descriptors, descriptors));
  // One that was joined is on its way out of the kernel's list still.
  std::set<std::string> left = threads;
  for (int tries = 0; tries < 5000 && left.size() > before.threads.size(); ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    left = threads_now();
  }
  if (left.size() > before.threads.size()) finding("threads are left: " + beyond(left, before.threads));
  if (directory != before.directory) finding("the working directory has changed to " + directory);
  if (mask != before.mask) finding("the umask has changed");
  if (std::memcmp(&blocked, &before.blocked, sizeof blocked) != 0) finding("the signal mask has changed");
  if (std::memcmp(&limits, &before.limits, sizeof limits) != 0) finding("a limit has changed");
}

Directory::FileState Directory::FileState::of(const std::string& path) {
  struct stat st{};
  if (::lstat(path.c_str(), &st) != 0) finding("gone: " + path);
  return {st.st_ino, st.st_mode, st.st_nlink, st.st_uid, st.st_size, nanoseconds(st.st_mtim), nanoseconds(st.st_ctim)};
}

Directory::Directory() {
  std::string name = std::string(::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp") + "/ramet-fuzz-XXXXXX";
  if (!::mkdtemp(name.data())) finding("no directory");
  root_ = name;
  for (const char* d : {"/r", "/tmp"}) ::mkdir((root_ + d).c_str(), 0755);
  write_file(root_ + "/canary", "canary", 6);
  const std::string page(4 * 4096, 'r');
  write_file(root_ + "/r/file", page.data(), page.size());
  ::symlink("..", (root_ + "/r/up").c_str());
  ::setenv("TMPDIR", (root_ + "/tmp").c_str(), 1);
  for (const char* path : {"/canary", "/r", "/r/file", "/r/up"}) before_.push_back(FileState::of(root_ + path));
}

Directory::~Directory() { fs::remove_all(root_); }

void Directory::fill(std::uint8_t damage) const {
  const std::string w = root_ + "/w";
  ::mkdir(w.c_str(), 0755);
  ::mkdir((w + "/d").c_str(), 0755);
  const std::string text(5000, 'a'), pages(4 * 4096, 'm'), prog = program("", 0), interpreted = program("/w/prog", 0);
  const std::string bad = program(damage & 1 ? "/w/bad" : "", damage);
  write_file(w + "/a", text.data(), text.size());
  write_file(w + "/d/x", text.data(), 10);
  write_file(w + "/map", pages.data(), pages.size());
  write_file(w + "/prog", prog.data(), prog.size());
  write_file(w + "/interpreted", interpreted.data(), interpreted.size());
  write_file(w + "/bad", bad.data(), bad.size());
  write_file(w + "/script", "#!/w/prog -x\n", 13);
  ::mkfifo((w + "/fifo").c_str(), 0600);
  ::symlink("a", (w + "/link").c_str());
  ::symlink("loop", (w + "/loop").c_str());
  ::symlink("../canary", (w + "/out").c_str());
  ::symlink("..", (w + "/outside").c_str());
  ::symlink((root_ + "/canary").c_str(), (w + "/away").c_str());
}

void Directory::check() const {
  fs::remove_all(root_ + "/w");
  std::size_t i = 0;
  for (const char* path : {"/canary", "/r", "/r/file", "/r/up"})
    if (FileState::of(root_ + path) != before_[i++]) finding(std::string("changed from outside its share: ") + path);
  if (names(root_) != std::set<std::string>{"canary", "r", "tmp"})
    finding("something new stands beside what was shared");
  if (!names(root_ + "/tmp").empty()) finding("temporary files are left");
}

}  // namespace ramet::fuzz
