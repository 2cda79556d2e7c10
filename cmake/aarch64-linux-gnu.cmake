# Cross-compiles for arm64 with Debian's toolchain (packages gcc- and g++-aarch64-linux-gnu), and with libraries of Debian's
# for arm64, which tests/hosts/machine fetches where they are not there yet.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

if(NOT DEFINED ENV{RAMET_ARM64_ROOT})  # once, not in each trial of the compiler
  execute_process(COMMAND ${CMAKE_CURRENT_LIST_DIR}/../tests/hosts/machine arm64 root OUTPUT_VARIABLE root
                  OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  set(ENV{RAMET_ARM64_ROOT} ${root})
endif()
set(root $ENV{RAMET_ARM64_ROOT})
set(CMAKE_FIND_ROOT_PATH ${root} /usr/aarch64-linux-gnu)
foreach(what LIBRARY INCLUDE PACKAGE)
  set(CMAKE_FIND_ROOT_PATH_MODE_${what} ONLY)
endforeach()
set(includes "-isystem ${root}/usr/include -isystem ${root}/usr/include/aarch64-linux-gnu")
set(CMAKE_C_FLAGS_INIT "${includes}")
set(CMAKE_CXX_FLAGS_INIT "${includes}")
set(CMAKE_EXE_LINKER_FLAGS_INIT "-L${root}/usr/lib/aarch64-linux-gnu")
