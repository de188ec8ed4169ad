#define VIVACE_ISA generic
#include "isa/table.h"
