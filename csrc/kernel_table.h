// The kernels of one instruction set. One translation unit of isa/ fills one table; dispatch.h chooses once.
#pragma once

#include "linear.h"

namespace vivace {

struct KernelTable {
  const char* name;
  LinearKernels linear;
};

}  // namespace vivace
