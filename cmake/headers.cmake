# Long headers that most units include, compiled once for all targets of the same `kind`: what decides about that are the
# compiler's options and definitions. Files include what they use all the same, and are compiled without this where a
# compiler cache, which could not tell what is in the compiled one, saves more.
if(CMAKE_CXX_COMPILER_LAUNCHER MATCHES ccache)
  set(CMAKE_DISABLE_PRECOMPILE_HEADERS ON)
endif()
set(headers algorithm array atomic chrono condition_variable cstring deque expected fstream functional map memory mutex optional
    random set shared_mutex span sstream string string_view thread unordered_map unordered_set vector)

function(ramet_headers target kind)  # then further ones
  get_property(first GLOBAL PROPERTY RAMET_HEADERS_${kind})
  if(first)
    target_precompile_headers(${target} REUSE_FROM ${first})
    return()
  endif()
  set_property(GLOBAL PROPERTY RAMET_HEADERS_${kind} ${target})
  foreach(header ${headers} ${ARGN})
    target_precompile_headers(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:<${header}$<ANGLE-R>>)
  endforeach()
endfunction()
