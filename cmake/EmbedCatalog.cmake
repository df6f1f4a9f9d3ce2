# Run by simrun_embed_catalog: writes one .cc with the text of every catalogue file.
file(STRINGS ${LIST} files)
set(entries "")
set(texts "")
set(i 0)
foreach(path IN LISTS files)
  file(READ ${path} text)
  file(RELATIVE_PATH relative ${ROOT} ${path})
  get_filename_component(section ${relative} DIRECTORY)
  if(section STREQUAL "")
    set(section ${SECTION})
  endif()
  get_filename_component(name ${path} NAME_WLE)  # only the last extension: "llama-3.1-8b.yaml" keeps its dot
  # Some compilers take no literal longer than 16 KB: adjacent raw literals, which they join.
  string(LENGTH "${text}" length)
  set(literal "")
  set(at 0)
  while(at LESS length)
    string(SUBSTRING "${text}" ${at} 12000 piece)
    string(APPEND literal "R\"SIMRUN(${piece})SIMRUN\"\n")
    math(EXPR at "${at} + 12000")
  endwhile()
  if(literal STREQUAL "")
    set(literal "\"\"")
  endif()
  string(APPEND texts "constexpr char kText${i}[] = ${literal};\n")
  string(APPEND entries "      {\"${section}\", \"${name}\", kText${i}},\n")
  math(EXPR i "${i} + 1")
endforeach()
file(WRITE ${OUT} "// Generated from the catalogue by cmake/EmbedCatalog.cmake; do not edit.
#include <vector>
#include \"base/catalog.h\"
// Both compilers join literals beyond the 64 KB that the standard asks for.
#pragma GCC diagnostic ignored \"-Woverlength-strings\"
namespace simrun {
namespace {
${texts}}  // namespace
const std::vector<EmbeddedFile>& ${FUNCTION}();
const std::vector<EmbeddedFile>& ${FUNCTION}() {
  static const auto* const files = new std::vector<EmbeddedFile>{
${entries}  };
  return *files;
}
}  // namespace simrun
")
