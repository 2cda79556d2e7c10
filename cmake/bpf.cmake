# eBPF objects, which clang makes on every host.
find_program(BPF_CLANG clang-19 REQUIRED)

# ramet_bpf_object(OBJECT SOURCE [OPTION...]): OBJECT, in the current binary directory, of SOURCE.
function(ramet_bpf_object object source)
  get_filename_component(folder ${CMAKE_CURRENT_BINARY_DIR}/${object} DIRECTORY)
  file(MAKE_DIRECTORY ${folder})
  add_custom_command(OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/${object}
    COMMAND ${BPF_CLANG} -target bpf -O2 -g -Wall -I${PROJECT_SOURCE_DIR} -idirafter /usr/include/${CMAKE_HOST_SYSTEM_PROCESSOR}-linux-gnu
            ${ARGN} -MD -MF ${CMAKE_CURRENT_BINARY_DIR}/${object}.d -c ${source} -o ${CMAKE_CURRENT_BINARY_DIR}/${object}
    DEPFILE ${CMAKE_CURRENT_BINARY_DIR}/${object}.d DEPENDS ${source} VERBATIM)
endfunction()
