// Chooses the kernels that this processor can run.
#pragma once

#include <string>
#include <vector>

#include "kernel_table.h"

namespace vivace {

// The tables that this build holds and this processor runs, slowest first; the last one is the default.
const std::vector<const KernelTable*>& supported_kernels();

// The table of this name; null if this build or this processor lacks it. "" names the default.
const KernelTable* find_kernels(const std::string& name);

// Names of the processor's features that matter here, as /proc/cpuinfo writes them.
std::vector<std::string> cpu_features();

}  // namespace vivace
