"""Which backend runs: the one place that imports them."""

from __future__ import annotations

from vivace.core.config import BackendName
from vivace.ops.backend import Backend


def make_backend(name: BackendName, num_threads: int | None, instruction_set: str | None) -> Backend:
    """The CPU backend, or the slow reference one for comparison. Imports only what is asked for.

    Raises `ConfigError` for an instruction set that this machine lacks.
    """
    if name == "reference":
        from vivace.backends.reference.backend import ReferenceBackend

        return ReferenceBackend()
    from vivace.backends.cpu.backend import CpuBackend

    return CpuBackend(num_threads=num_threads, isa=instruction_set)
