"""How much memory steps take beside weights and cache: measured, before the KV pool has a size, by running the
largest ones and by capturing every CUDA graph, over a cache of one block. What torch keeps of them, its libraries'
workspaces and the graphs are seen in what the device has left. (Graphs hold the cache's addresses: the engine's own
are captured once more when the pool is there.)

Shape letters: B sequences, T tokens, V vocabulary, X blocks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vivace.backends.cuda.drawn import Sampler, draw
from vivace.backends.cuda.driver import Driver
from vivace.backends.cuda.executable import CudaExecutable
from vivace.backends.cuda.spans import GATHERED_POSITIONS
from vivace.ops.backend import SampleInputs, StepInputs, StepLimits, StepProgress

MOST_GRAPHS_BYTES = 1 << 30  # set aside at most for graphs that are captured at first use
NUM_LOGPROBS = 20
MAX_CONTEXT = 1 << 15  # longer ones take no more: attention cuts its work into parts


def measured_bytes(
    executable: CudaExecutable,
    sampler: Sampler,
    limits: StepLimits,
    max_context: int,
    driver: Driver,
    progress: StepProgress | None,
) -> int:
    """For steps of `limits` with `max_sequences` of them sequences. The cache may be of one block."""
    graphs = executable.graphs
    captures = graphs.is_active and graphs.at_start and executable.state_width is None
    driver.release()
    before, _ = driver.memory()
    if executable.state_width is None:
        steps = largest_steps(limits, max_context, executable.block_size)
    else:
        steps = [state_step(limits, executable.state_width)]
    run_steps(executable, sampler, steps[:1] if captures else steps)
    after, _ = driver.memory()
    num_bytes = max(0, before - after)
    if executable.state_width is not None:
        return num_bytes  # without a graph
    if not captures:
        expected = _expected_bytes(executable, num_sequences_of(limits), after, driver)
        return num_bytes + min(expected, MOST_GRAPHS_BYTES)
    driver.release()
    before, _ = driver.memory()
    graphs.capture(progress)
    driver.release()
    return num_bytes + max(0, before - driver.memory()[0])


def run_steps(executable: CudaExecutable, sampler: Sampler, steps: list[StepInputs]) -> None:
    """With all that sampling may be asked for."""
    for step in steps:
        logits = executable.run(step)
        draw(logits, demanding_rows(len(logits)), min(NUM_LOGPROBS, logits.shape[1]), sampler).read()


def largest_steps(limits: StepLimits, max_context: int, block_size: int) -> list[StepInputs]:
    """A prompt beside decode rows, as many of its rows sampled as guesses may be; then a decode step of every
    sequence."""
    num_sequences = num_sequences_of(limits)
    long = min(max_context, MAX_CONTEXT)
    num_sampled = max(num_sequences, min(limits.max_sampled, limits.max_tokens))
    gathered = min(long, max(1, GATHERED_POSITIONS // num_sequences))
    return [
        replace(
            mixed_step(num_sequences, limits.max_tokens, long, block_size),
            sampled_rows_S=np.arange(limits.max_tokens - num_sampled, limits.max_tokens, dtype=np.int32),
        ),
        mixed_step(num_sequences, num_sequences, gathered, block_size),
    ]


def num_sequences_of(limits: StepLimits) -> int:
    most = limits.max_sampled if limits.max_sequences is None else limits.max_sequences
    return min(most, limits.max_tokens)


def state_step(limits: StepLimits, width: int) -> StepInputs:
    """Of a program that begins with states, [T, width]. It has no context."""
    count = limits.max_tokens
    zeros = np.zeros(count, np.int32)
    return StepInputs(
        token_ids_T=zeros,
        positions_T=zeros,
        slots_T=zeros,
        query_starts_B1=np.arange(count + 1, dtype=np.int32),
        context_lens_B=np.ones(count, np.int32),
        block_tables_BX=np.zeros((count, 1), np.int32),
        sampled_rows_S=np.zeros(limits.max_sampled, np.int32),
        states_TD=np.zeros((count, width), np.float32),
    )


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


def _expected_bytes(executable: CudaExecutable, num_sequences: int, free: int, driver: Driver) -> int:
    """Of graphs that are captured at first use: what the driver keeps of one more, times all that may come. Their
    values share the first one's memory."""
    sizes = {bucket.rows for bucket in executable.graphs.buckets if bucket.rows < num_sequences}
    if not sizes:
        return 0
    executable.run(mixed_step(max(sizes), max(sizes), executable.block_size, executable.block_size))
    return max(0, free - driver.memory()[0]) * len(executable.graphs.buckets)
