"""How much memory steps take beside weights and cache: measured, by running the largest ones before the KV pool has a
size. What torch keeps of them, its libraries' workspaces and CUDA graphs are seen in what the device has left.

Shape letters: B sequences, T tokens, V vocabulary, X blocks.
"""

from __future__ import annotations

import numpy as np
import torch

from vivace.backends.cuda.drawn import Sampler, draw
from vivace.backends.cuda.executable import CudaExecutable
from vivace.backends.cuda.graphs import BUCKETS, bucket_of_rows
from vivace.backends.cuda.spans import GATHERED_POSITIONS
from vivace.ops.backend import SampleInputs, StepInputs, StepLimits

MOST_GRAPHS_BYTES = 1 << 30  # set aside at most for graphs that are not captured yet
NUM_LOGPROBS = 20
MAX_CONTEXT = 1 << 15  # longer ones take no more: attention cuts its work into parts


def measured_bytes(executable: CudaExecutable, sampler: Sampler, limits: StepLimits, max_context: int) -> int:
    """Of a CUDA device, for steps of `limits`, `max_sampled` of them sequences. The cache may be of one block."""
    device = executable.device
    torch.cuda.empty_cache()
    before = _free(device)
    run_largest(executable, sampler, limits, max_context)
    torch.cuda.synchronize(device)
    after = _free(device)
    graph_bytes = _graph_bytes(executable, limits.max_sampled, after)
    return max(0, before - after) + min(graph_bytes, MOST_GRAPHS_BYTES)


def run_largest(executable: CudaExecutable, sampler: Sampler, limits: StepLimits, max_context: int) -> None:
    """A prompt beside decode rows, with all that sampling may be asked for, then a decode step of every sequence."""
    num_sequences = min(limits.max_sampled, limits.max_tokens)
    long = min(max_context, MAX_CONTEXT)
    in_graph = min(long, GATHERED_POSITIONS // bucket_of_rows(num_sequences))
    for step in (
        mixed_step(num_sequences, limits.max_tokens, long, executable.block_size),
        mixed_step(num_sequences, num_sequences, in_graph, executable.block_size),
    ):
        logits = executable.run(step)
        draw(logits, demanding_rows(len(logits)), min(NUM_LOGPROBS, logits.shape[1]), sampler).read()


def mixed_step(num_sequences: int, num_tokens: int, context: int, block_size: int) -> StepInputs:
    """Every sequence but the last has one token, in a context that lies in block 0 over and over."""
    counts_B = np.ones(num_sequences, np.int32)
    counts_B[-1] = num_tokens - num_sequences + 1
    contexts_B = np.maximum(counts_B, context).astype(np.int32)
    starts_B1 = np.concatenate([[0], np.cumsum(counts_B)]).astype(np.int32)
    sequence_T = np.repeat(np.arange(num_sequences), counts_B)
    positions_T = contexts_B[sequence_T] - counts_B[sequence_T] + np.arange(num_tokens) - starts_B1[sequence_T]
    return StepInputs(
        token_ids_T=np.zeros(num_tokens, np.int32),
        positions_T=positions_T.astype(np.int32),
        slots_T=(np.arange(num_tokens) % block_size).astype(np.int32),
        query_starts_B1=starts_B1,
        context_lens_B=contexts_B,
        block_tables_BX=np.zeros((num_sequences, -(-int(contexts_B.max()) // block_size)), np.int32),
        sampled_rows_S=starts_B1[1:] - np.int32(1),
    )


def demanding_rows(num_rows: int) -> SampleInputs:
    """Every row with a penalty, a bias, top-k and top-p."""
    ones, starts = np.ones(num_rows, np.float32), np.arange(num_rows + 1, dtype=np.int32)
    tokens = np.zeros(num_rows, np.int32)
    return SampleInputs(
        temperature_S=ones,
        top_k_S=np.full(num_rows, 50, np.int32),
        top_p_S=ones * np.float32(0.9),
        min_p_S=ones * 0,
        repetition_S=ones * np.float32(1.1),
        presence_S=ones * 0,
        frequency_S=ones * 0,
        uniform_S=ones * np.float32(0.5),
        history_starts_S1=starts,
        history_tokens=tokens,
        history_counts=tokens + np.int32(1),
        bias_starts_S1=starts,
        bias_tokens=tokens,
        bias_values=ones,
    )


def _graph_bytes(executable: CudaExecutable, num_sequences: int, free: int) -> int:
    """What the driver keeps of one more graph, times all that may come. Their values share the first one's memory."""
    rows = [size for size in BUCKETS if size <= num_sequences]
    if len(rows) < 2 or not executable.has_graphs:
        return 0
    executable.run(mixed_step(rows[-2], rows[-2], executable.block_size, executable.block_size))
    torch.cuda.synchronize(executable.device)
    widths = 10  # of tables: powers of two
    return max(0, free - _free(executable.device)) * len(rows) * widths


def _free(device: torch.device) -> int:
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return free_bytes
