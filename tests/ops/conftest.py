"""Every instruction set that this machine has, forced, with one and two threads."""

from __future__ import annotations

import pytest

from vivace.backends.cpu.backend import CpuBackend, instruction_sets

BACKENDS = {(isa, threads): CpuBackend(threads, isa) for isa in instruction_sets() for threads in (1, 2)}


@pytest.fixture(params=list(BACKENDS), ids=lambda key: f"{key[0]}-{key[1]}")
def cpu(request: pytest.FixtureRequest) -> CpuBackend:
    return BACKENDS[request.param]


@pytest.fixture(params=instruction_sets())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)
