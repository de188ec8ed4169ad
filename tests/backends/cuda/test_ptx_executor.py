"""The executor of PTX finds what a device would do wrong: small kernels with one fault each, and the same without."""

from __future__ import annotations

import numpy as np
import pytest
from ptx.source import PtxError, parse
from triton_interpreter import torch

launcher = pytest.importorskip("ptx.launcher", reason="Triton has no compiler for NVIDIA's GPUs here")

HEADER = """
.version 8.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.visible .entry kernel(.param .u64 .ptr .global .align 1 data, .param .u64 .ptr .global .align 1 out)
.reqntid 64
{
.reg .pred %p<4>;
.reg .b16 %rs<8>;
.reg .b32 %r<20>;
.reg .b64 %rd<12>;
ld.param.b64 %rd1, [data];
ld.param.b64 %rd2, [out];
mov.u32 %r1, %tid.x;
mov.u32 %r2, %ctaid.x;
mul.wide.u32 %rd3, %r1, 4;
add.s64 %rd4, %rd1, %rd3;
add.s64 %rd5, %rd2, %rd3;
mov.b32 %r3, global_smem;
shl.b32 %r4, %r1, 2;
add.s32 %r5, %r3, %r4;
xor.b32 %r6, %r4, 128;
add.s32 %r7, %r3, %r6;
"""
READ = "ld.global.b32 { %r8 }, [ %rd4 + 0 ];\n"


def launch(
    body: str,
    *,
    first: str = READ,
    grid: int = 1,
    size: int = 64,
    shared_bytes: int = 256,
    warps: int = 2,
    must_wait: bool = False,
) -> np.ndarray:
    """What the threads of a program, 64, make of the numbers from 0 on."""
    data, out = torch.arange(size, dtype=torch.int32), torch.full((32 * warps,), -1, dtype=torch.int32)
    kernel = launcher.Kernel(HEADER.replace("64\n{", f"{32 * warps}\n{{") + first + body + "\nret;\n}\n")
    kernel.launch([data, out], (grid, 1, 1), shared_bytes, warps, must_wait=must_wait)
    result: np.ndarray = out.numpy()
    return result


STORE = "st.global.b32 [ %rd5 + 0 ], { %r9 };"


def through_shared(between: str) -> str:
    return f"st.shared.b32 [%r5], %r8;\n{between}\nld.shared.b32 %r9, [%r7];\n{STORE}"


def test_values_through_shared_memory_and_a_barrier() -> None:
    crossed = np.arange(64) ^ 32
    assert launch(through_shared("bar.sync 0;")).tolist() == crossed.tolist()


COPY = "cp.async.ca.shared.global [ %r5 + 0 ], [ %rd4 + 0 ], 0x4, %r10;\ncp.async.commit_group;\n"
FAULTS = {
    "of a storage of 240 bytes": ("mov.b32 %r9, %r8;" + STORE, {"size": 60}),
    "is not aligned to 4": ("add.s64 %rd5, %rd5, 2;\nmov.b32 %r9, %r8;" + STORE, {}),
    "is not aligned to 8": ("ld.global.v2.b32 { %r9, %r10 }, [ %rd4 + 0 ];" + STORE, {}),
    "wrote since the last barrier": (through_shared(""), {}),
    "read since the last barrier": (
        through_shared("bar.sync 0;") + "st.shared.b32 [%r5], %r8;",
        {},
    ),
    "never written": ("ld.shared.b32 %r9, [%r7];" + STORE, {}),
    "of 128 of shared memory": (through_shared("bar.sync 0;"), {"shared_bytes": 128}),
    "on its way": ("mov.b32 %r10, 4;\n" + COPY + "ld.shared.b32 %r9, [%r5];" + STORE, {}),
    "before its asynchronous copies arrived": ("mov.b32 %r10, 4;\n" + COPY, {}),
    "reads a register": (STORE, {}),
    "wrote otherwise": (
        f"setp.eq.u32 %p1, %r2, 0;\nadd.s32 %r9, %r8, %r2;\n@%p1 {STORE}\n@!%p1 {STORE}",
        {"grid": 2},
    ),
    "threads write different values": ("add.s32 %r9, %r8, %r2;" + STORE, {"grid": 2}),
    "another program of the grid reads": ("add.s32 %r9, %r8, 1;\nst.global.b32 [ %rd4 + 0 ], { %r9 };", {"grid": 2}),
    "different values to one address": ("st.global.b32 [ %rd2 + 0 ], { %r8 };", {}),
    "of a warp are elsewhere": (
        "setp.lt.u32 %p1, %r1, 20;\n@%p1 bra $END;\nshfl.sync.bfly.b32 %r9, %r8, 1, 31, -1;\n$END:\n",
        {},
    ),
    "of the program are elsewhere": ("setp.lt.u32 %p1, %r1, 32;\n@%p1 bra $END;\nbar.sync 0;\n$END:\n", {}),
    "not supported": ("vote.sync.any.pred %p1, %p2, -1;", {}),
}


@pytest.mark.parametrize("complaint", FAULTS)
def test_faults_are_found(complaint: str) -> None:
    body, options = FAULTS[complaint]
    with pytest.raises(PtxError, match=complaint):
        launch(body, **options)


def test_copies_arrive_by_group() -> None:
    """All but the last group are there, zeros where nothing was to be read."""
    body = (
        "setp.lt.u32 %p1, %r1, 60;\nselp.b32 %r10, 4, 0, %p1;\n" + COPY + "cp.async.commit_group;\n"
        "cp.async.wait_group 1;\nbar.sync 0;\nld.shared.b32 %r9, [%r7];\n" + STORE
    )
    expected = np.where(np.arange(64) < 60, np.arange(64), 0)[np.arange(64) ^ 32]
    assert launch(body).tolist() == expected.tolist()


def test_loops_of_different_lengths_come_together() -> None:
    """Each thread counts to the lowest two bits of its number, then all of them meet at a barrier."""
    body = (
        "mov.b32 %r9, 0;\nand.b32 %r11, %r1, 3;\n$LOOP:\nsetp.ge.u32 %p1, %r9, %r11;\n@%p1 bra $OUT;\n"
        "add.s32 %r9, %r9, 1;\nbra.uni $LOOP;\n$OUT:\nbar.sync 0;\n" + STORE
    )
    assert launch(body).tolist() == (np.arange(64) % 4).tolist()


WAIT = "griddepcontrol.wait;\n"
AHEAD = "add.s64 %rd6, %rd4, {};\nprefetch.global.L2 [%rd6];\n"
TOO_EARLY = {
    "does not wait for the kernels before": (READ + WAIT, ""),
    "not wait for the kernels before": ("setp.lt.u32 %p1, %r1, 60;\n@%p1 " + WAIT, READ),
    "without having waited": ("griddepcontrol.launch_dependents;\n", ""),
    "out of bounds in 32 threads": (AHEAD.format(256) + WAIT, READ),
}


@pytest.mark.parametrize("complaint", TOO_EARLY)
def test_launches_that_overlap_wait(complaint: str) -> None:
    first, body = TOO_EARLY[complaint]
    with pytest.raises(PtxError, match=complaint):
        launch(body, first=first, must_wait=True)


def test_lines_may_be_asked_for_before() -> None:
    first = AHEAD.format(128) + "griddepcontrol.launch_dependents;\n" + WAIT + READ
    assert launch(STORE.replace("%r9", "%r8"), first=first, must_wait=True).tolist() == list(range(64))


# 64 x 16 and 8 x 16 ones of 16 bits, multiplied by four warps.
FILL = """
mov.b32 %r9, 0x3F803F80;
shl.b32 %r10, %r1, 4;
add.s32 %r10, %r3, %r10;
st.shared.v4.b32 [%r10], {%r9, %r9, %r9, %r9};
shl.b32 %r11, %r1, 1;
add.s32 %r11, %r3, %r11;
mov.b16 %rs1, 0x3F80;
st.shared.b16 [%r11+2048], %rs1;
"""
MEET, SHOW = "bar.sync 0;\n", "fence.proxy.async.shared::cta;\n"
MULTIPLY = f"""
mov.b64 %rd6, {1024 >> 4 | 128 >> 4 << 16 | 256 >> 4 << 32};
mov.b64 %rd7, {3072 >> 4 | 128 >> 4 << 16 | 256 >> 4 << 32};
setp.ne.s32 %p1, %r1, %r1;
wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%r12,%r13,%r14,%r15}}, %rd6, %rd7, %p1, 1, 1, 0, 0;
wgmma.commit_group.sync.aligned;
"""
FINISH = "wgmma.wait_group.sync.aligned 0;\ncvt.rzi.s32.f32 %r9, %r12;\n"
AGAIN = "st.shared.v4.b32 [%r10], {%r9, %r9, %r9, %r9};\n"
SEND = "cp.async.cg.shared.global [ %r10 + 0 ], [ %rd1 + 0 ], 0x10;\ncp.async.commit_group;\n"
FAULTY_PRODUCTS = {
    "no fence has shown": FILL + MEET + MULTIPLY + FINISH,
    "another warp wrote since the last barrier": FILL + SHOW + MULTIPLY + FINISH,
    "that a copy is on its way to": FILL + MEET + SEND + SHOW + MULTIPLY + FINISH,
    "a product is about to read": FILL + MEET + SHOW + MULTIPLY + MEET + AGAIN + FINISH,
    "writes over what another warp read": FILL + MEET + SHOW + MULTIPLY + MEET + FINISH + AGAIN,
    "before its products were done": FILL + MEET + SHOW + MULTIPLY,
}


@pytest.mark.parametrize("complaint", FAULTY_PRODUCTS)
def test_products_of_four_warps_are_ordered(complaint: str) -> None:
    with pytest.raises(PtxError, match=complaint):
        launch(FAULTY_PRODUCTS[complaint], size=128, shared_bytes=2304, warps=4)


def test_a_product_of_four_warps() -> None:
    body = FILL + MEET + SHOW + MULTIPLY + FINISH + MEET + AGAIN + STORE
    assert launch(body, size=128, shared_bytes=2304, warps=4).tolist() == [16] * 128


@pytest.mark.parametrize(("selector", "is_used"), [("0x3210", False), ("0x3310", False), ("0x3240", True)])
def test_bytes_that_nothing_wrote_are_noise(selector: str, is_used: bool) -> None:
    found = launch(f"mov.b32 %r9, 0;\nprmt.b32 %r9, %r9, %r15, {selector};" + STORE)
    assert (len(set(found.tolist())) > 1) == is_used


def test_columns_of_a_wider_value_are_all_that_may_be_touched() -> None:
    wide = torch.zeros((4, 16))
    memory = launcher.GlobalMemory([wide[:, 4:8]])
    instruction = parse(HEADER + "ret;\n}\n").blocks[0].instructions[0]
    first = np.array([memory.address(wide[:, 4:8])], np.uint64)
    nobody = np.zeros(1, np.int32)
    assert memory.load(instruction, first, 4, 4, nobody).tolist() == [[0, 0, 0, 0]]
    for distance in (-16, 16, 48):
        with pytest.raises(PtxError, match="out of bounds"):
            memory.load(instruction, first + np.array([distance]).astype(np.uint64), 4, 4, nobody)


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ("mov.b32 %r9, 0f3F808000;\ncvt.rn.bf16x2.f32 %r9, %r9, %r9;", 0x3F803F80),  # a tie goes to the even one
        ("mov.b32 %r9, 0f3F818000;\ncvt.rn.bf16x2.f32 %r9, %r9, 0f3F800000;", 0x3F823F80),
        ("mov.b32 %r9, 0fC3000000;\ncvt.rzi.s16.f32 %rs1, %r9;\ncvt.s32.s16 %r9, %rs1;", -128),
        ("mov.b32 %r9, 0f7FC00000;\ncvt.rzi.s32.f32 %r9, %r9;", 0),
        ("mov.b32 %r9, 0x12345678;\nprmt.b32 %r9, %r9, 0, 0x0123;", 0x78563412),
        ("mov.b32 %r9, 0x80;\nprmt.b32 %r9, %r9, 0, 0x8880;", -128),
        ("mov.b32 %r9, -256;\nbfe.s32 %r9, %r9, 4, 8;", -16),
        ("mov.b32 %r9, 0xF0F0;\nlop3.b32 %r9, %r9, 0xFF, 0x3, 0xEA;", 0xF3),
        ("mov.b32 %r9, -1;\nshl.b32 %r9, %r9, 32;", 0),
        ("mov.b32 %r9, -7;\ndiv.s32 %r9, %r9, 2;", -3),
        ("mov.b32 %r9, 0x40000000;\nmul.hi.s32 %r9, %r9, -4;", -1),
    ],
)  # fmt: skip
def test_single_instructions(instructions: str, expected: int) -> None:
    """Results worked out by the definitions of the PTX manual."""
    assert set(launch(instructions + STORE).tolist()) == {expected}
