// Files of a snapshot that tell of events: eventfds, timerfds, signalfds and epoll instances.
#pragma once

#include <expected>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "vmm/linux/files/files.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/snapshot/file.hpp"
#include "vmm/snapshot/state.hpp"

namespace ramet::vmm::snapshot {

// Puts what the file's kind needs into the state; of an epoll instance nothing. A timerfd is read, so the program
// cannot go on. Errors: why the file cannot be had again, to follow "its descriptor 3".
std::expected<void, std::string> describe_event_file(const OpenFile&, FileState&);
// Makes such a file; an epoll instance is empty. Errors: damaged, no room on the host.
std::expected<std::shared_ptr<OpenFile>, Failure> make_event_file(const File&, Process&, const FileState&);

// Indices of the files that are saved.
using KnownFiles = std::map<const OpenFile*, int>;
// What epoll instances watch. Errors: as above.
std::expected<std::vector<WatchState>, std::string> describe_watches(const OpenFile& epoll, const KnownFiles&);
// `opened`: by index; null where no descriptor leads to the file. Errors: damaged, no room on the host.
Status restore_watches(const File&, OpenFile& epoll, const FileState&,
                       const std::vector<std::shared_ptr<OpenFile>>& opened);

}  // namespace ramet::vmm::snapshot
