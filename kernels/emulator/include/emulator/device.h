// What CUDA's names mean on a CPU. The compiler reads this before every .cu file, so the CUDA source itself stays
// unmodified. A thread of the grid is a fiber of runtime.cpp. In order of reading:
#pragma once
#include "emulator/qualifiers.h"
#include "emulator/counting.h"
#include "emulator/vectors.h"
#include "emulator/warp.h"
#include "emulator/atomics.h"
#include "emulator/intrinsics.h"
#include "emulator/math.h"
#include "emulator/half.h"
#include "emulator/tensor_cores.h"
#include "emulator/kernel.h"
