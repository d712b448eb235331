#pragma once
#include "emulator/tensor_cores.h"
