// Engines of a family of guests: making one takes longer than most programs run, and the code that one has translated
// serves the next process that runs the same program. No engine passes to another family.
#pragma once

#include <expected>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/error.hpp"
#include "vmm/machine.hpp"
#include "vmm/soft/engine.hpp"

namespace ramet::vmm::soft {

// See provide_soft_engines().
void use_engines(MakeEngine);
bool engines_provided();

class EnginePool {
 public:
  // A program by its name: programs of one name usually have much code in common.
  using Program = std::size_t;
  static constexpr Program kNone = 0;
  static Program program(std::string_view name) { return std::hash<std::string_view>()(name) | 1; }

  // An idle engine that ran this program last; else one that has run none; else, if as many are idle as are kept, the
  // one that was given back first; else a new one. Errors: no memory, or too many engines in use.
  std::expected<std::unique_ptr<Engine>, Failure> take(Program) RAMET_EXCLUDES(lock_);
  void give(std::unique_ptr<Engine>, Program) RAMET_EXCLUDES(lock_);
  // The same in all programs of the family, or none would find its code translated.
  const Machine::CodePlaces& places() const { return places_; }
  // Adds an idle engine that has run no program, unless there is one, or as many are idle as are kept. Errors: no
  // memory.
  Status prepare() RAMET_EXCLUDES(lock_);

 private:
  struct Idle {
    std::unique_ptr<Engine> engine;
    Program program = kNone;  // that it ran last
  };
  std::expected<std::unique_ptr<Engine>, Failure> make();
  std::unique_ptr<Engine> take_idle_locked(Program) RAMET_REQUIRES(lock_);

  const Machine::CodePlaces places_ = Machine::CodePlaces::draw();
  Mutex lock_;  // innermost
  std::vector<Idle> idle_ RAMET_GUARDED_BY(lock_);  // those that have run nothing; the others as they were given back
  std::size_t in_use_ RAMET_GUARDED_BY(lock_) = 0;
};

}  // namespace ramet::vmm::soft
