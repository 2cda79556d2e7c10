// The `ramet` program.
#include "tools/commands.hpp"
#include "tools/soft_program.hpp"
#ifdef RAMET_SOFT
#include "vmm/soft/provide.hpp"
#endif

int main(int argc, char** argv) {
#ifdef RAMET_SOFT
  ramet::vmm::provide_soft_engines();
#else
  ramet::tools::remember_arguments(argv);
#endif
  return ramet::tools::run_command_line(argc, argv, RAMET_VERSION);
}
