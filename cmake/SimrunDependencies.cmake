# Every dependency comes from the distribution's packages; nothing is downloaded at build time.
find_package(absl REQUIRED)
find_package(yaml-cpp REQUIRED)
if(NOT TARGET yaml-cpp::yaml-cpp)
  add_library(yaml-cpp::yaml-cpp ALIAS yaml-cpp)  # the target's name before yaml-cpp 0.8
endif()
find_package(fmt 9 REQUIRED)
find_package(Boost 1.74 REQUIRED)
find_package(Protobuf CONFIG QUIET)
if(NOT Protobuf_FOUND)
  find_package(Protobuf REQUIRED)
endif()
find_package(CLI11 REQUIRED)
find_package(ZLIB REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(Threads REQUIRED)
# Optional: only simrun sweep and simrun plan use it.
option(SIMRUN_MPI "Use MPI when it is found" ON)
if(SIMRUN_MPI)
  enable_language(C)  # what FindMPI looks for
  find_package(MPI QUIET COMPONENTS C)
  message(STATUS "MPI: ${MPI_C_FOUND} ${MPI_C_VERSION}")
endif()
