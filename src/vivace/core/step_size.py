"""How many tokens a step computes at most, where nobody says."""

from __future__ import annotations

CPU_TOKENS_A_STEP = 512  # reaches the arithmetic peak, and keeps the gap between tokens short
# 512 rows of a model of 1B (2,048 wide) are 64 tiles of 128 x 128 for an H100's 132 processors; 2,048 are 256. The
# price is the longest gap between tokens beside a prompt: a full step of an 8B in bf16 takes 68 ms there instead of
# 17, at 60% of 800 TFLOP/s; without a prompt to compute steps are as short as before.
GPU_TOKENS_A_STEP = 2048


def usual_tokens_a_step(*, on_gpu: bool, max_num_seqs: int) -> int:
    """At least one for each sequence."""
    return max(GPU_TOKENS_A_STEP if on_gpu else CPU_TOKENS_A_STEP, max_num_seqs)
