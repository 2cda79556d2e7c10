# Optimisation, warnings and sanitizers for our own targets; warnings are not exported.
set(RAMET_SANITIZE "" CACHE STRING "Sanitizers for -fsanitize=, comma-separated")
option(RAMET_FUZZ "The rooms tell a fuzzer what of them it reached (clang)" OFF)
# Unoptimised, what has AddressSanitizer's and UndefinedBehaviorSanitizer's checks compiles twice as fast; guest-mm, whose
# tests compute, is an exception (CMakeLists.txt), and so is what a fuzzer runs.
set(optimised -O1)
if(RAMET_SANITIZE MATCHES address AND NOT RAMET_FUZZ)
  set(optimised -O0)
endif()
foreach(language C CXX)
  set(CMAKE_${language}_FLAGS_RELEASE "-O2 -DNDEBUG")
  set(CMAKE_${language}_FLAGS_DEBUG "${optimised} -g")
endforeach()

add_library(ramet_flags INTERFACE)
target_compile_options(ramet_flags INTERFACE
  $<$<COMPILE_LANGUAGE:C,CXX>:-Wall -Wextra -Wconversion -Wno-sign-conversion>
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wshadow=local>
  $<$<COMPILE_LANG_AND_ID:CXX,Clang>:-Wshadow -Wthread-safety -Wthread-safety-beta -Werror=thread-safety -Werror=thread-safety-beta>)

# Thirty-two files make one unit where CMAKE_UNITY_BUILD is on: the standard headers are read once for all of them, which
# takes more than half off the time to compile.
set(CMAKE_UNITY_BUILD_BATCH_SIZE 32)

if(RAMET_SANITIZE)
  # The first finding ends the program, so that no test passes over it.
  add_compile_options(-fsanitize=${RAMET_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${RAMET_SANITIZE})
  add_compile_definitions(RAMET_SANITIZED)  # for tests: smaller numbers
endif()
if(RAMET_FUZZ)  # without comparisons: inputs are decisions, and seldom numbers that something is compared with
  add_compile_options(-fsanitize-coverage=inline-8bit-counters,pc-table)
endif()
