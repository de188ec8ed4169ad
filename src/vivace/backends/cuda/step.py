"""A step's integers on the device, and the groups of rows that attention runs over.

Shape letters: T tokens, S sampled rows, B sequences, N spans of a group, Q rows of a span, C positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vivace.backends.cuda.drawn import drawn_tokens
from vivace.backends.cuda.kernels.ragged_rows import RaggedRows, TilePlan
from vivace.backends.cuda.kv_cache import CudaKVCache
from vivace.backends.cuda.spans import Branches, Span
from vivace.backends.cuda.transfer import Upload
from vivace.ops.backend import Int32Array, KVSpec, StepInputs


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that attention computes together. `slots_NC`: where each position's key lies, 0 behind a span's last.
    `path_starts_N`: the position from which on a span's keys are a guess's path; None where no row has a parent."""

    rows_NQ: Tensor
    positions_NQ: Tensor
    slots_NC: Tensor
    path_starts_N: Tensor | None


@dataclass(slots=True)
class DeviceStep:
    """What operations read. Index tensors are int64."""

    token_ids_T: Tensor
    positions_T: Tensor
    slots_T: Tensor
    sampled_rows_S: Tensor
    states_TD: Tensor | None
    groups: list[Group]  # empty where `rows` are there
    rows: RaggedRows | None  # for the attention kernel
    has_branches: bool


@dataclass(frozen=True, slots=True)
class StepPlan:
    """How attention goes over a step's rows, decided on the host: a kernel over tiles, or torch over spans."""

    spans: list[Span]
    branches: Branches | None = None
    tiles: TilePlan | None = None


def step_arrays(inputs: StepInputs, plan: StepPlan) -> dict[str, Int32Array]:
    """Every integer that the device needs, by name."""
    spans, branches, drawn_rows_T = plan.spans, plan.branches, inputs.drawn_rows_T
    arrays = {
        "token_ids": inputs.token_ids_T,
        "positions": inputs.positions_T,
        "slots": inputs.slots_T,
        "sampled": inputs.sampled_rows_S,
        "drawn_rows": np.full_like(inputs.token_ids_T, -1) if drawn_rows_T is None else drawn_rows_T,
        "tables": inputs.block_tables_BX,
        "rows": np.concatenate([span.first_rows for span in spans]) if spans else np.zeros(0, np.int32),
        "sequences": np.concatenate([span.sequences for span in spans]) if spans else np.zeros(0, np.int32),
    }
    if plan.tiles is not None:
        arrays |= plan.tiles.arrays
    if branches is not None:
        arrays |= {
            "branch_rows": branches.rows,
            "branch_positions": branches.positions,
            "branch_slots": branches.slots,
            "path_starts": branches.first_positions,
        }
    return arrays


def send_step(
    inputs: StepInputs, plan: StepPlan, upload: Upload, cache: CudaKVCache, beside: dict[str, Int32Array]
) -> DeviceStep:
    """The step of these inputs, and what the cache has to say `beside`. Table columns that no context reaches stay
    behind."""
    width = -(-int(inputs.context_lens_B.max()) // cache.spec.block_size) if len(inputs.context_lens_B) else 1
    arrays = step_arrays(inputs, plan) | {"tables": inputs.block_tables_BX[:, :width]} | beside
    if inputs.state_rows_T is not None:
        arrays["state_rows"] = inputs.state_rows_T
    sent = upload.send(arrays)
    feed(sent, inputs)
    cache.learn(sent)
    step = device_step(sent, plan, cache.spec)
    if inputs.states_TD is not None:
        states_TD = torch.as_tensor(inputs.states_TD, device=cache.device)
        step.states_TD = states_TD[sent["state_rows"]] if inputs.state_rows_T is not None else states_TD
    return step


def feed(sent: dict[str, Tensor], inputs: StepInputs) -> None:
    """Put the tokens that the last step drew, and nobody has read, in their places. Where it drew none, any token:
    the sequence has ended, and its row is not looked at."""
    drawn_S = drawn_tokens(inputs.drawn)
    if drawn_S is not None:
        rows_T, token_ids_T = sent["drawn_rows"], sent["token_ids"]
        drawn_T = drawn_S[rows_T.clamp(min=0)].clamp(min=0).int()
        token_ids_T.copy_(torch.where(rows_T >= 0, drawn_T, token_ids_T))


def device_step(sent: dict[str, Tensor], plan: StepPlan, spec: KVSpec) -> DeviceStep:
    """From what was sent. Launches operations; waits for none."""
    positions_T = sent["positions"].long()
    has_branches = plan.branches is not None
    rows = None if plan.tiles is None else plan.tiles.on_device(sent)
    groups = _groups(sent, positions_T, plan.spans, has_branches, spec)
    return DeviceStep(
        sent["token_ids"].long(), positions_T, sent["slots"].long(), sent["sampled"].long(), None, groups, rows,
        has_branches,
    )  # fmt: skip


def _groups(
    sent: dict[str, Tensor], positions_T: Tensor, spans: list[Span], has_branches: bool, spec: KVSpec
) -> list[Group]:
    groups, done = [], 0
    for span in spans:
        count = len(span.sequences)
        first_rows_N = sent["rows"][done : done + count].long()
        sequences_N = sent["sequences"][done : done + count].long()
        done += count
        offsets_Q = torch.arange(span.num_rows, device=positions_T.device)
        rows_NQ = first_rows_N[:, None] + offsets_Q
        positions_NQ = positions_T[rows_NQ]
        slots_NC = _slots(sent["tables"][sequences_N], positions_NQ[:, -1], span.num_positions, spec.block_size)
        starts_N = None
        if has_branches and span.num_rows == 1:
            starts_N = sent["path_starts"][first_rows_N].long()
            slots_NC = _branched(slots_NC, rows_NQ[:, 0], sent, len(positions_T))
        groups.append(Group(rows_NQ, positions_NQ, slots_NC, starts_N))
    return groups


def _slots(tables_NX: Tensor, last_N: Tensor, num_positions: int, block_size: int) -> Tensor:
    """[N, C]. Table entries behind a context are anything: they are not read."""
    positions_C = torch.arange(num_positions, device=tables_NX.device)
    slots_NC = tables_NX[:, positions_C // block_size].long() * block_size + positions_C % block_size
    return torch.where(positions_C <= last_N[:, None], slots_NC, 0)


def _branched(slots_NC: Tensor, rows_N: Tensor, sent: dict[str, Tensor], num_tokens: int) -> Tensor:
    """With the slots of each row's own path in their places. Rows of other groups write to a line that is cut off."""
    num_spans = len(rows_N)
    place_T = torch.full((num_tokens,), num_spans, device=slots_NC.device)
    place_T[rows_N] = torch.arange(num_spans, device=slots_NC.device)
    lines_I = place_T[sent["branch_rows"].long()]
    is_here_I = lines_I < num_spans
    positions_I = torch.where(is_here_I, sent["branch_positions"].long(), 0)
    extended = torch.cat([slots_NC, torch.zeros_like(slots_NC[:1])])
    extended[lines_I, positions_I] = sent["branch_slots"].long()
    return extended[:num_spans]
