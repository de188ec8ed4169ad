"""Machines whose predictions can be worked out by hand."""

from __future__ import annotations

from vivace.plan.machine import Efficiency, Machine

PERFECT = Efficiency(
    basis="perfect",
    bandwidth={"": 1.0},
    kv_bandwidth=1.0,
    arithmetic=1.0,
    attention_arithmetic=1.0,
    overlap=100.0,
    row_share=1e12,
    step_s=0.0,
    op_s=0.0,
    product_op_s=0.0,
    attention_keys=0.0,
    sequence_s=0.0,
    logit_s=0.0,
    admission_s=0.0,
    admission_token_s=0.0,
)


def perfect_machine(*, read: float = 1e12, peak: float = 1e14, memory: float = 1e11) -> Machine:
    """A GPU that reaches its ceilings and whose memory can be filled."""
    return Machine(
        name="perfect",
        title="perfect machine",
        kind="gpu",
        memory_bytes=int(memory),
        read_bytes_per_s=read,
        operations_per_s={"f32": peak, "bf16": peak, "int8": peak},
        source="this test",
        efficiency=PERFECT,
        usable_memory=1.0,
        runtime_bytes=0,
    )
