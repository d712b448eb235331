#pragma once
#include "emulator/half.h"
