// A context as the VMM sees it: what one thread of a guest's host process is told, and what it says (see
// arch/process_layout.h). The process may write anything into what it says, at any time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "arch/process_layout.h"
#include "vmm/process/listener.hpp"

namespace ramet::vmm::process {

// A system call that a thread of the process is to make.
struct Command {
  std::uint64_t number = 0;
  std::uint64_t arguments[6] = {};
  std::uint64_t unused = 0;
};
static_assert(sizeof(Command) == 64);

// What follows the commands of a list.
enum class Then : std::uint32_t { Guest, Answer };

class Context {
 public:
  Context() = default;
  // `contexts`: the file as the VMM has it mapped.
  Context(std::byte* contexts, unsigned number)
      : told_(contexts + std::size_t{number} * RAMET_TOLD_SIZE),
        said_(contexts + std::size_t{RAMET_CONTEXTS} * RAMET_TOLD_SIZE + std::size_t{number} * RAMET_SAID_SIZE),
        number_(number) {}

  // The listener of the context's thread; it outlives the context.
  void set_listener(Listener& listener) { listener_ = &listener; }

  // Where the process sees them.
  std::uint64_t told_at() const { return RAMET_TOLD + std::uint64_t{number_} * RAMET_TOLD_SIZE; }
  std::uint64_t said_at() const { return RAMET_SAID + std::uint64_t{number_} * RAMET_SAID_SIZE; }
  std::span<std::byte> said() const { return {said_, RAMET_SAID_SIZE}; }
  // What commands may point to: read-only there.
  std::span<std::byte> data() const { return {told_ + TOLD_DATA, RAMET_TOLD_SIZE - TOLD_DATA}; }
  std::uint64_t data_at() const { return told_at() + TOLD_DATA; }

  // How many rounds the thread spins for its next list before it sleeps.
  void spin(std::uint32_t rounds) const;
  void tell_bases() const;  // has the thread say its bases, where user code can change them by itself
  bool has_bases() const;   // whether it says them
  std::uint64_t base(std::size_t n) const;
  // Writes a list, which go() posts. Precondition: at most TOLD_MOST_COMMANDS commands; the last list is answered.
  void prepare(std::span<const Command>, Then) const;
  // Makes sleep() wait for the answer to the next list on the listener, if there is one. Call before go(): the answer
  // may come at once.
  void listen() const;
  // Posts the prepared list to the thread. Returns the list's number.
  std::uint32_t go() const;
  std::uint32_t newest() const;
  bool answered(std::uint32_t number) const;
  // Whether the commands of that list, or of a later one, have been carried out, as the process says.
  bool applied(std::uint32_t number) const;
  // Waits until applied(number). `patient`, and false: as of sleep().
  bool wait_applied(std::uint32_t number, const std::function<bool()>& patient) const;
  // Spins until the newest list is answered, or so much time has passed.
  struct Looked {
    bool answered = false;
    bool at_once = false;  // the answer was there before the first look: it came while this thread had no processor
    std::chrono::nanoseconds displaced{};  // how long another thread had its processor meanwhile
  };
  Looked look(std::chrono::nanoseconds) const;
  // Sleeps until the newest list is answered; `patient` is asked about ten times a second whether to go on. False: not
  // answered.
  bool sleep(const std::function<bool()>& patient) const;
  std::int64_t result(std::size_t command) const;

 private:
  std::byte *told_ = nullptr, *said_ = nullptr;
  unsigned number_ = 0;
  Listener* listener_ = nullptr;
};

}  // namespace ramet::vmm::process
