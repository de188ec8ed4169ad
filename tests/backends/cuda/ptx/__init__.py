"""Executes PTX over NumPy arrays, all threads of all programs of a grid side by side: compiled kernels without a GPU.

    source        the text of a kernel: instructions, blocks, registers
    machine       registers, which threads are active, branches and barriers
    memory        global memory with bounds and alignments, shared memory with who wrote and read it
    traffic       what programs of a grid may not do to each other in global memory
    floats        numbers of 8 and 16 bits, and what approximate instructions may return
    operands      how an instruction reads and writes registers
    arithmetic    integers, floats, comparisons, bits
    conversions   between types, 8-bit and 16-bit floats among them
    transfers     loads, stores, asynchronous copies
    lanes         shuffles and reductions of a warp, barriers
    matrices      fragments of a warp: ldmatrix, stmatrix, mma
    warpgroups    Hopper's products of four warps
    succession    launches that overlap: griddepcontrol, prefetch
    device_facts  what the package is told of the target
    launcher      Triton's driver for a named target, whose device is this executor

Approximate instructions (div.full, ex2.approx and the like) are off by as much as their definitions allow, in either
direction, where the result is no float: kernels must not rely on their last bits.
"""
