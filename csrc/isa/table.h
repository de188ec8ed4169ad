// Included once by each file of isa/, with VIVACE_ISA set: instantiates every kernel with that file's compiler flags.
//
// Everything here must live in namespace vivace::VIVACE_ISA. An inline function shared with other files (any of the
// standard library's) could be emitted with this file's instructions and be the copy that the linker keeps.
#include "kernel_table.h"
#include "kernels/cache_write.h"
#include "kernels/logits.h"
#include "kernels/peak.h"
#include "kernels/rows.h"
#include "linear/kernels.h"

#define VIVACE_STRING_(x) #x
#define VIVACE_STRING(x) VIVACE_STRING_(x)

namespace vivace::VIVACE_ISA {

extern const KernelTable KERNELS;
const KernelTable KERNELS = {
    .name = VIVACE_STRING(VIVACE_ISA),
    .linear = LINEAR_KERNELS,
    .rows = ROW_KERNELS,
    .attention = ATTENTION_KERNELS,
    .logits = LOGIT_KERNELS,
    .peak = PEAK_KERNELS,
};

}  // namespace vivace::VIVACE_ISA
