# simrun_library(<folder> DEPS <target>... [PRIVATE_DEPS <target>...])
#
# One static library per folder from its sources (main.cc excluded), with the settings every folder shares.
# Every header of the folder is public and installed. Catalogue files <folder>/catalog/<section>/*.yaml are
# compiled in: see simrun_embed_catalog.

add_library(simrun_settings INTERFACE)
set_target_properties(simrun_settings PROPERTIES EXPORT_NAME settings)
target_compile_features(simrun_settings INTERFACE cxx_std_20)
# Same seed, same bytes on every x86-64 build: no fused multiply-add unless written.
target_compile_options(simrun_settings INTERFACE -ffp-contract=off)

set(SIMRUN_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wno-missing-field-initializers)

function(simrun_library folder)
  cmake_parse_arguments(ARG "" "" "DEPS;PRIVATE_DEPS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.h)
  list(FILTER sources EXCLUDE REGEX "main\\.cc$")
  if(NOT sources)  # an archive needs an object, even when the folder has only headers
    file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/headers_only.cc CONTENT "")
    set(sources ${CMAKE_CURRENT_BINARY_DIR}/headers_only.cc)
  endif()
  add_library(simrun_${folder} STATIC ${sources})
  add_library(simrun::${folder} ALIAS simrun_${folder})
  set_target_properties(simrun_${folder} PROPERTIES
    EXPORT_NAME ${folder} CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON)
  target_sources(simrun_${folder} PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR} FILES ${headers})
  target_include_directories(simrun_${folder} INTERFACE
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/simrun>)
  target_link_libraries(simrun_${folder} PUBLIC simrun_settings ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
  target_compile_options(simrun_${folder} PRIVATE ${SIMRUN_WARNINGS})
  set_property(GLOBAL APPEND PROPERTY SIMRUN_LIBRARIES simrun_${folder})
endfunction()

# simrun_embed_catalog(<folder> <function>): compiles <folder>/catalog/**.yaml into simrun_<folder> as
# `const std::vector<simrun::EmbeddedFile>& simrun::<function>()`. The section is the folder below catalog/,
# or `default_section` for files directly in it.
function(simrun_embed_catalog folder function default_section)
  file(GLOB_RECURSE files CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/catalog/*.yaml)
  set(out ${CMAKE_CURRENT_BINARY_DIR}/${function}.cc)
  string(REPLACE ";" "\n" list "${files}")
  file(GENERATE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/${function}.list CONTENT "${list}\n")
  add_custom_command(OUTPUT ${out}
    COMMAND ${CMAKE_COMMAND} -D LIST=${CMAKE_CURRENT_BINARY_DIR}/${function}.list -D OUT=${out}
            -D ROOT=${CMAKE_CURRENT_SOURCE_DIR}/catalog -D FUNCTION=${function} -D SECTION=${default_section}
            -P ${PROJECT_SOURCE_DIR}/cmake/EmbedCatalog.cmake
    DEPENDS ${files} ${CMAKE_CURRENT_BINARY_DIR}/${function}.list ${PROJECT_SOURCE_DIR}/cmake/EmbedCatalog.cmake
    COMMENT "Embedding ${folder}/catalog" VERBATIM)
  target_sources(simrun_${folder} PRIVATE ${out})
  target_include_directories(simrun_${folder} PRIVATE ${PROJECT_SOURCE_DIR})
endfunction()
