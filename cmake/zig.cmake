# Compiles for any system with `zig c++`, which carries the headers and libraries of all of them.
# ZIG: the program. ZIG_TARGET: <processor>-<system>[.<version>][-<C library>[.<version>]]. See scripts/prebuilds.ts.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ZIG ZIG_TARGET)
# -O3 -s: the first link for a target and a degree of optimisation compiles a C++ library, and CMake links to see which
# compiler it has.
set(CMAKE_CXX_COMPILER "${ZIG}" c++ -target ${ZIG_TARGET} -O3 -s)
set(CMAKE_DLLTOOL "${ZIG}" dlltool)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)

string(REGEX MATCH "^([a-z0-9_]+)-([a-z]+)" matched "${ZIG_TARGET}")
set(CMAKE_SYSTEM_PROCESSOR ${CMAKE_MATCH_1})
if(CMAKE_MATCH_2 STREQUAL "linux")
  set(CMAKE_SYSTEM_NAME Linux)
elseif(CMAKE_MATCH_2 STREQUAL "macos")
  set(CMAKE_SYSTEM_NAME Darwin)
elseif(CMAKE_MATCH_2 STREQUAL "windows")
  set(CMAKE_SYSTEM_NAME Windows)
else()
  message(FATAL_ERROR "ZIG_TARGET must name linux, macos or windows, got ${ZIG_TARGET}")
endif()
