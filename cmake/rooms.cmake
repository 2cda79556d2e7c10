# Units that tests/mutations damages are compiled each by itself, for it puts its own in their place.
if(NOT RAMET_SANITIZE AND NOT CMAKE_CROSSCOMPILING)
  file(STRINGS tests/mutations/list mutations REGEX "^[^#]")
  list(TRANSFORM mutations REPLACE "^[^|]*\\|[^|]*\\| *([^ |]*) *\\|.*$" "${PROJECT_SOURCE_DIR}/\\1")
  list(REMOVE_DUPLICATES mutations)
  set_source_files_properties(${mutations} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
endif()

# A room is a static library of all its sources. It sees the rooms its arrow points at and no others
# (the test `rooms` checks the includes).
function(ramet_room name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${name}/*.cpp ${name}/*.c ${name}/*.S)
  # Of the twins in arch/, what guests see is for any host, and host/ is for the host's own processor; so is KVM's.
  foreach(twin x86_64:x86_64 arm64:aarch64)
    string(REPLACE : ";" twin ${twin})
    list(GET twin 0 folder)
    list(GET twin 1 processor)
    if(NOT CMAKE_SYSTEM_PROCESSOR STREQUAL processor)
      list(FILTER sources EXCLUDE REGEX "/(arch/${folder}/host|vmm/kvm/${folder})/")
    endif()
  endforeach()
  if(NOT CMAKE_SYSTEM_PROCESSOR STREQUAL x86_64)  # arm64's is assembled by any host
    list(FILTER sources EXCLUDE REGEX "/arch/x86_64/vdso\\.S$")
  endif()
  list(FILTER sources EXCLUDE REGEX "/vmm/soft/dynarmic/")  # a library of its own, see soft.cmake
  list(FILTER sources EXCLUDE REGEX "\\.bpf\\.c$")  # see bpf.cmake
  string(REPLACE - _ target ramet_${name})
  if(sources)
    add_library(${target} STATIC ${sources})
    set(visibility PUBLIC)
    target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:ramet_flags>)
    if(NOT (name STREQUAL guest-mm AND CMAKE_BUILD_TYPE STREQUAL Debug AND optimised STREQUAL -O0))  # which has other options there
      ramet_headers(${target} rooms fmt/format.h)
    endif()
  else()  # headers only on this processor
    add_library(${target} INTERFACE)
    set(visibility INTERFACE)
  endif()
  add_library(ramet::${name} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
  target_include_directories(${target} ${visibility} $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
                                                     $<INSTALL_INTERFACE:include/ramet>)
  target_compile_features(${target} ${visibility} cxx_std_23)
  target_link_libraries(${target} ${visibility} ${ARGN})
  set_property(GLOBAL APPEND PROPERTY RAMET_ROOMS ${name})
endfunction()
