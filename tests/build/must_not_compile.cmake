# simrun_must_not_compile(<name> SOURCE <file> MACRO <macro> CASES <n>): tests that <file> compiles as it stands, and
# that with <macro> set to 1, 2, ... <n> the compiler refuses it because of its types (not for some other reason).
function(simrun_must_not_compile name)
  cmake_parse_arguments(ARG "" "SOURCE;MACRO;CASES" "" ${ARGN})
  set(command ${CMAKE_CXX_COMPILER} -std=c++20 -fsyntax-only -I${PROJECT_SOURCE_DIR})
  add_test(NAME build.${name}.right COMMAND ${command} ${ARG_SOURCE})
  foreach(i RANGE 1 ${ARG_CASES})
    add_test(NAME build.${name}.wrong_${i} COMMAND ${command} -D${ARG_MACRO}=${i} ${ARG_SOURCE})
    set_tests_properties(build.${name}.wrong_${i} PROPERTIES PASS_REGULAR_EXPRESSION
      "no match for .operator|could not convert|cannot convert|conversion from|invalid operands|no viable conversion|no matching function|no known conversion")
  endforeach()
endfunction()

simrun_must_not_compile(units SOURCE ${CMAKE_CURRENT_SOURCE_DIR}/wrong_unit.cc MACRO SIMRUN_WRONG_UNIT CASES 7)
