# What an installed tree has: the `ramet` program, the rooms as libraries, and find_package(ramet) with
# ramet::ramet (all rooms), and ramet::soft where the software CPU was built. Headers keep their rooms: #include "vmm/run.hpp".
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

add_library(ramet_all INTERFACE)
set_target_properties(ramet_all PROPERTIES EXPORT_NAME ramet)
get_property(rooms GLOBAL PROPERTY RAMET_ROOMS)
set(targets ramet_all)
foreach(room ${rooms})
  string(REPLACE - _ target ramet_${room})
  target_link_libraries(ramet_all INTERFACE ${target})
  list(APPEND targets ${target})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${room} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/ramet
          FILES_MATCHING PATTERN *.hpp PATTERN *.h PATTERN *.inc)
endforeach()

if(RAMET_SOFT)
  list(APPEND targets ramet_soft)
  install(TARGETS ramet-soft RUNTIME DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/ramet)
endif()
install(TARGETS ${targets} EXPORT ramet-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
# For programs that run as guests.
install(FILES ${PROJECT_SOURCE_DIR}/vmm/include/ramet_guest.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS ramet RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(EXPORT ramet-targets NAMESPACE ramet:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/ramet)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/ramet-config.cmake.in ${PROJECT_BINARY_DIR}/ramet-config.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/ramet)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/ramet-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/ramet-config.cmake ${PROJECT_BINARY_DIR}/ramet-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/ramet)
