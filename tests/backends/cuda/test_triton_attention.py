"""Paged attention against the reference in float32: ragged batches, random block tables, every cache type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from paged_case import PagedCase, paged_case
from triton_interpreter import CONVERTS_FP8, DEVICE, torch

from triton.runtime.errors import OutOfResources  # isort: skip

from vivace.backends.cuda.kernels import attention, attention_tiles
from vivace.backends.cuda.kernels.attention import paged_attention
from vivace.backends.cuda.kernels.attention_shape import AttentionShape
from vivace.backends.cuda.kernels.attention_tiles import WIDE_SHARED_BYTES
from vivace.backends.cuda.kernels.ragged_rows import LEAST_GRAPH_PARTS, graph_parts, tile_plan

# Weights and decoded numbers enter products in the query's type: 8 bits of a bfloat16, 11 of a float16.
TOLERANCE = {"f32": 2e-5, "f16": 4e-3, "bf16": 3e-2}
MIXED = [(1, 300), (3, 40), (1, 1), (19, 21), (1, 17)]


def run(case: PagedCase) -> np.ndarray:
    result: np.ndarray = paged_attention(case.q, case.keys, case.values, case.rows, case.shape).float().cpu().numpy()
    return result


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", ["float", "int8", "int4", "fp8"])
def test_ragged_batch(kind: str, dtype: str) -> None:
    rng = np.random.default_rng(7)
    case = paged_case(rng, MIXED, AttentionShape(4, 2, 64, 0.125), kind=kind, dtype=dtype)
    np.testing.assert_allclose(run(case), case.expected(), rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.skipif(not CONVERTS_FP8, reason="the target knows no 8-bit floats")
def test_float8_that_the_device_converts() -> None:
    case = paged_case(np.random.default_rng(7), [(1, 20)], AttentionShape(4, 2, 64, 0.125), kind="fp8_native")
    np.testing.assert_allclose(run(case), case.expected(), rtol=0, atol=2e-5)


SHAPES = {
    "one group of all heads": AttentionShape(6, 1, 32, 0.2),
    "every head its own": AttentionShape(2, 2, 32, 0.2),
    "seven heads a group, 48 dimensions": AttentionShape(7, 1, 48, 0.15),
    "window": AttentionShape(4, 2, 32, 0.2, window=24),
    "window of one": AttentionShape(4, 2, 32, 0.2, window=1),
    "window across chunks": AttentionShape(4, 2, 32, 0.2, window=280),
    "cap": AttentionShape(4, 2, 32, 1.5, softcap=3.0),
    "window and cap": AttentionShape(4, 2, 32, 1.5, window=24, softcap=3.0),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    block_size = 24 if "heads a group" in name or name == "window" else 16
    case = paged_case(np.random.default_rng(11), MIXED, SHAPES[name], block_size=block_size)
    np.testing.assert_allclose(run(case), case.expected(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("window", [None, 24])
def test_prompts_behind_a_context(window: int | None) -> None:
    """Several tiles of rows, of which the later ones begin behind the first positions where a window ends."""
    shape = AttentionShape(7, 1, 32, 0.2, window=window)
    case = paged_case(np.random.default_rng(13), [(45, 130), (18, 18)], shape)
    np.testing.assert_allclose(run(case), case.expected(), rtol=0, atol=2e-5)


def test_tiles_of_a_device_with_much_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as many keys in a tile of a prompt: a chunk behind a context, and the ends of rows within a tile."""
    monkeypatch.setattr(attention, "shared_bytes_of", lambda _: WIDE_SHARED_BYTES)
    shape = AttentionShape(4, 1, 128, 0.1)
    assert attention_tiles.tile_size(128, 128, "float", torch.bfloat16, WIDE_SHARED_BYTES).N == 128
    case = paged_case(np.random.default_rng(31), [(34, 200), (20, 20)], shape, dtype="bf16")
    np.testing.assert_allclose(run(case), case.expected(), rtol=0, atol=TOLERANCE["bf16"])


def test_tiles_that_do_not_fit_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of the compiler may want more shared memory for a tile: the next launch takes smaller ones."""
    launch, asked = attention._launch_tiles, []

    def refuse_wide(*arguments: Any) -> None:
        asked.append(arguments[-1])
        if arguments[-1] >= WIDE_SHARED_BYTES:
            raise OutOfResources(240 << 10, 227 << 10, "shared memory")
        launch(*arguments)

    monkeypatch.setattr(attention, "NARROW_DEVICES", set())
    monkeypatch.setattr(attention, "_launch_tiles", refuse_wide)
    monkeypatch.setattr(attention, "shared_bytes_of", lambda _: WIDE_SHARED_BYTES)
    case = paged_case(np.random.default_rng(37), [(1, 20)], AttentionShape(4, 2, 32, 0.2))
    np.testing.assert_allclose(run(case), case.expected(), rtol=0, atol=2e-5)
    assert asked == [WIDE_SHARED_BYTES, attention_tiles.LEAST_SHARED_BYTES]
    assert {DEVICE} == attention.NARROW_DEVICES


@pytest.mark.parametrize("kind", ["float", "int8", "int4"])
def test_a_row_does_not_depend_on_its_batch(kind: str) -> None:
    """Bit for bit: the first two sequences alone, and with others that need more chunks and larger tiles."""
    case = paged_case(np.random.default_rng(5), MIXED, AttentionShape(4, 2, 32, 0.2), kind=kind, dtype="bf16")
    together = run(case)
    inputs = case.inputs
    for sequence in range(len(MIXED)):
        start, stop = inputs.query_starts_B1[sequence : sequence + 2].tolist()
        inputs_alone = type(inputs)(
            inputs.token_ids_T[start:stop], inputs.positions_T[start:stop], inputs.slots_T[start:stop],
            np.array([0, stop - start], np.int32), inputs.context_lens_B[sequence : sequence + 1],
            inputs.block_tables_BX[sequence : sequence + 1], inputs.sampled_rows_S,
        )  # fmt: skip
        alone = PagedCase(
            case.q_TD[start:stop], case.keys, case.values, case.decoded_keys, case.decoded_values, inputs_alone,
            case.shape, case.dtype,
        )  # fmt: skip
        assert np.array_equal(run(alone), together[start:stop])


def test_what_lies_behind_a_context_is_not_read() -> None:
    case = paged_case(np.random.default_rng(3), MIXED, AttentionShape(4, 2, 32, 0.2))
    expected = case.expected()
    written = torch.zeros(case.keys.codes.shape[:2], dtype=torch.bool)
    tables, size = case.inputs.block_tables_BX, case.keys.block_size
    for sequence, context in enumerate(case.inputs.context_lens_B.tolist()):
        positions = np.arange(context)
        written[tables[sequence, positions // size], positions % size] = True
    for plane in (case.keys, case.values):
        plane.codes[~written.to(plane.codes.device)] = torch.nan
    np.testing.assert_allclose(run(case), expected, rtol=0, atol=2e-5)


def test_workspace_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of no more than three parts at once: several launches make the same bits."""
    case = paged_case(
        np.random.default_rng(19), [(1, 300), (1, 520), (3, 257), (1, 20)], AttentionShape(2, 1, 32, 0.2)
    )
    at_once = run(case)
    np.testing.assert_allclose(at_once, case.expected(), rtol=0, atol=2e-5)
    monkeypatch.setattr(attention, "WORKSPACE_BYTES", 3 * 2 * (32 + 2) * 4)
    assert list(case.rows.split[0].launches(3)) == [(0, 1), (1, 2), (2, 3)]
    assert np.array_equal(run(case), at_once)


def test_parts_are_filled_up_for_a_graph() -> None:
    """Shapes of what is sent follow the number of rows and parts, not the contexts."""
    shape, shapes = AttentionShape(2, 1, 32, 0.2), []
    for spans in ([(1, 520), (1, 30)], [(1, 260), (1, 270)]):
        case = paged_case(np.random.default_rng(23), spans, shape)
        assert graph_parts(case.inputs) == LEAST_GRAPH_PARTS
        plan = tile_plan(case.inputs, 2, 128, num_parts=8)
        sent = plan.arrays | {"tables": case.inputs.block_tables_BX}
        shapes.append({name: array.shape for name, array in plan.arrays.items()})
        rows = plan.on_device({name: torch.from_numpy(array).to(DEVICE) for name, array in sent.items()})
        result = paged_attention(case.q, case.keys, case.values, rows, shape).cpu().numpy()
        assert np.array_equal(result, run(case))
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_trees_of_guesses(kind: str) -> None:
    """Rows 0 and 1 lie where they belong, row 4 follows row 1; rows 2 and 3 follow row 0, across a block's end."""
    spans = [(2, 32), (1, 32), (1, 33), (1, 33), (1, 40)]
    case = paged_case(np.random.default_rng(29), spans, AttentionShape(4, 2, 32, 0.2), kind=kind)
    case.inputs.block_tables_BX[1:4, :2] = case.inputs.block_tables_BX[0, :2]
    case.inputs.parents_T = np.array([-1, -1, 0, 2, 1, -1], np.int32)
    np.testing.assert_allclose(run(case), case.expected(), rtol=0, atol=2e-5)
