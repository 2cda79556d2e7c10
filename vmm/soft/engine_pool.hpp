// Engines of a family of guests: making one takes longer than most programs run, and code that one has translated
// serves whoever runs the same program next. Never of another family.
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
  // By what it is called: programs of one name have much code in common, usually.
  using Program = std::size_t;
  static constexpr Program kNone = 0;
  static Program program(std::string_view name) { return std::hash<std::string_view>()(name) | 1; }

  // The one that ran this program last; else one that has run none, or a new one; when there are many, the one that was
  // given back first. Errors: no memory, or too many engines in use.
  std::expected<std::unique_ptr<Engine>, Failure> take(Program);
  void give(std::unique_ptr<Engine>, Program);
  // The same in all programs of the family, or none would find its code translated.
  const Machine::CodePlaces& places() const { return places_; }
  // There is one that has run no program, as long as nobody takes it and there are not many already.
  Status prepare();

 private:
  struct Idle {
    std::unique_ptr<Engine> engine;
    Program program = kNone;  // that it ran last
  };
  std::expected<std::unique_ptr<Engine>, Failure> make();
  std::unique_ptr<Engine> take_idle_locked(Program) RAMET_REQUIRES(lock_);

  const Machine::CodePlaces places_ = Machine::CodePlaces::draw();
  Mutex lock_;  // a leaf
  std::vector<Idle> idle_ RAMET_GUARDED_BY(lock_);  // the one that was given back last is last
  std::size_t in_use_ RAMET_GUARDED_BY(lock_) = 0;
};

}  // namespace ramet::vmm::soft
