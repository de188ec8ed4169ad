// The files of isa/ are compiled once for each instruction set, with VIVACE_ISA set to its name (CMakeLists.txt), and
// instantiate every kernel with its compiler flags.
//
// Everything in them must live in namespace vivace::VIVACE_ISA. An inline function shared with other files (any of the
// standard library's) could be emitted with their instructions and be the copy that the linker keeps.
#include "kernel_table.h"
#include "kernels/logits.h"
#include "kernels/peak.h"
#include "kernels/rows.h"

#define VIVACE_STRING_(x) #x
#define VIVACE_STRING(x) VIVACE_STRING_(x)

namespace vivace::VIVACE_ISA {

extern const LinearKernels LINEAR_KERNELS;
extern const AttentionKernels ATTENTION_KERNELS;

extern const KernelTable KERNELS;
const KernelTable KERNELS = {
    .name = VIVACE_STRING(VIVACE_ISA),
    .linear = LINEAR_KERNELS,
    .attention = ATTENTION_KERNELS,
    .rows = ROW_KERNELS,
    .logits = LOGIT_KERNELS,
    .peak = PEAK_KERNELS,
};

}  // namespace vivace::VIVACE_ISA
