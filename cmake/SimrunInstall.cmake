# `cmake --install`: the program, one archive per folder, the headers under include/simrun/, and the CMake package
# that find_package(simrun) finds. A program links simrun::simrun, or single folders such as simrun::sim.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/simrun)

get_property(libraries GLOBAL PROPERTY SIMRUN_LIBRARIES)
list(REMOVE_ITEM libraries simrun_cli)  # the command line's own code is not part of the library
foreach(library IN LISTS libraries)
  get_target_property(header_sets ${library} INTERFACE_HEADER_SETS)
  if(header_sets)
    set(headers FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/simrun)
  else()
    set(headers)
  endif()
  install(TARGETS ${library} EXPORT simrun ARCHIVE ${headers})
endforeach()
install(TARGETS simrun_settings simrun_all EXPORT simrun)
if(TARGET simrun)
  install(TARGETS simrun RUNTIME)
endif()

install(EXPORT simrun FILE simrunTargets.cmake NAMESPACE simrun:: DESTINATION ${package_dir})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/simrunConfig.cmake.in ${PROJECT_BINARY_DIR}/simrunConfig.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/simrunConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/simrunConfig.cmake ${PROJECT_BINARY_DIR}/simrunConfigVersion.cmake
  DESTINATION ${package_dir})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/NOTICE DESTINATION ${CMAKE_INSTALL_DOCDIR})
