"""Compiled kernels, executed as PTX, do what the interpreter's tests ask: some of each family for each target.

`python tests/backends/cuda/compiled_kernels.py` executes all of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import triton_interpreter  # noqa: F401  skips where torch or triton is missing
from compiled_kernels import FOLDER, execute

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="triton's compiler is for Linux")

# Every kernel, every way to decode a weight and every plane; contexts and rows that fill no tile.
TESTS = {
    80: [
        "test_triton_attention.py::test_ragged_batch[int4-f16]",
        "test_triton_attention.py::test_trees_of_guesses[int8]",
        "test_triton_products.py::test_block_encodings[int4_g32-17-160-bf16]",
        "test_triton_products.py::test_block_encodings[q6_k-2-512-f16]",
        "test_triton_products.py::test_block_encodings[q5_0-3-288-bf16]",
        "test_triton_products.py::test_int8_of_tokens_and_rows[3]",
        "test_triton_products.py::test_8_bit_floats[False-3]",
        "test_triton_rows.py::test_codes_of_a_norm[True-bf16-200-int8_outlier]",
        "test_triton_rows.py::test_gated_activation[silu]",
        "test_triton_rows.py::test_queries_and_keys_are_turned_in_one_launch",
        "test_triton_rows.py::test_rope[10]",
        "test_triton_rows.py::test_written_keys_read_back_as_defined[int4-64]",
        "test_triton_storage.py::test_caches_have_the_same_bytes[int8_per_token_head]",
        "test_triton_storage.py::test_caches_have_the_same_bytes[fp8_e4m3]",
        "test_triton_sampling.py::test_draws_what_the_reference_draws[3]",
        "test_triton_sampling.py::test_log_probabilities_and_ranks[3]",
    ],
    89: [
        "test_triton_attention.py::test_float8_that_the_device_converts",
        "test_triton_products.py::test_8_bit_floats[True-3]",
    ],
    90: [
        "test_production_tiles.py::test_attention[wide-128-float-prefill]",
        "test_triton_rows.py::test_codes_of_a_gated_activation[silu-bf16-200-int8_outlier]",
        "test_triton_products.py::test_8_bit_floats[True-70]",
        "test_triton_products.py::test_block_encodings[int4_g128-1-256-bf16]",
    ],
}
KERNELS = {
    80: {
        "attend_tile", "merge_parts", "normalize", "normalize_and_code", "code_tokens", "gate", "rotate",
        "write_slots", "multiply_codes", "multiply_nibbles", "multiply_int8", "multiply_fp8", "draw_row", "rank_row",
    },
    89: {"attend_tile", "multiply_fp8", "code_tokens"},
    90: {"attend_tile", "multiply_fp8", "code_tokens", "multiply_nibbles", "gate_and_code"},
}  # fmt: skip
INSTRUCTIONS = {
    80: (
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16",
        "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8",
        "lop3.b32",
    ),
    89: ("mma.sync.aligned.m16n8k32.row.col.f32.e4m3", "cvt.rn.f16x2.e4m3x2"),
    90: (
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16",
        "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3",
        "prefetch.global.L2",
    ),
}


@pytest.mark.parametrize("target", TESTS)
def test_compiled_for(target: int, tmp_path: Path) -> None:
    done, executed = execute(target, [f"{FOLDER}/{name}" for name in TESTS[target]], tmp_path, timeout=600)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
    assert {one["kernel"] for one in executed} >= KERNELS[target]
    opcodes = {opcode for one in executed for opcode in one["opcodes"]}
    for instruction in INSTRUCTIONS[target]:
        assert any(opcode.startswith(instruction) for opcode in opcodes), instruction
    for one in executed:
        assert one["constants"]["launch_pdl"] == str(target >= 90)
        assert ("griddepcontrol.wait" in one["opcodes"]) == (target >= 90)
