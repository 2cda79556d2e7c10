// Engines of a family of guests: making one takes longer than most programs run, and code that one has translated serves
// whoever runs the same program next. Never of another family.
#pragma once

#include <expected>
#include <memory>
#include <mutex>
#include <vector>

#include "vmm/error.hpp"
#include "vmm/soft/engine.hpp"

namespace ramet::vmm::soft {

// See provide_soft_engines().
void use_engines(MakeEngine);
bool engines_provided();

class EnginePool {
 public:
  // The one that was given back last, else a new one. Errors: no memory, or too many engines in use.
  std::expected<std::unique_ptr<Engine>, Failure> take();
  void give(std::unique_ptr<Engine>);
  // There is one to take, as long as nobody takes it.
  Status prepare();

 private:
  std::expected<std::unique_ptr<Engine>, Failure> make();

  std::mutex lock_;  // guards what follows; a leaf
  std::vector<std::unique_ptr<Engine>> idle_;
  std::size_t in_use_ = 0;
};

}  // namespace ramet::vmm::soft
