#include "kernel_table.h"
#include "kernels/cache_write.h"
