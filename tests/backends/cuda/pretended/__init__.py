"""A CUDA device, pretended on torch's CPU build: what a first contact with a GPU shows, shown without one.

    with pretended_device() as machine:
        llm = LLM(device="cuda", ...)
    machine.waits          # where the host waited for the device, and for what

Tensors on it say `cuda:0` and hold a CPU tensor inside, so numbers are those of torch's CPU device. What is modelled
is everything around them: which device a tensor is on, what waits, what a stream has done when, pinned memory, memory
that a graph's capture records, and what a replay finds when the host has gone on.
"""

from __future__ import annotations

from pretended.machine import Machine, Wait
from pretended.session import pretended_device

__all__ = ["Machine", "Wait", "pretended_device"]
