// What a .cu file with code for the host sees before its first line, as with nvcc.
#pragma once
#include "cuda_runtime.h"

#define main emulator_main
namespace emulator {
inline int call_main(int (*function)(), int, char**) { return function(); }
inline int call_main(int (*function)(int, char**), int count, char** words) { return function(count, words); }
inline int call_main(int (*function)(int, const char**), int count, char** words) { return function(count, (const char**)words); }
}  // namespace emulator
#define EMULATOR_MAIN \
    EMULATOR_EXPORT int emulator_run_main(int count, char** words) { return emulator::call_main(emulator_main, count, words); }
