#include "kernel_table.h"
#include "linear/kernels.h"
