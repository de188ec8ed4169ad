"""A real server for every test that wants one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from canaries import singing
from hostile_requests import STRICT
from served_process import SMALL, ServedProcess, served


@pytest.fixture(scope="session")
def server() -> Iterator[ServedProcess]:
    """`vivace serve` with the embedded model and default limits: base_url, api_key, pid, engine_pid, logs."""
    with served(*SMALL) as process:
        yield process.wait_ready()


@pytest.fixture(scope="session")
def strict() -> Iterator[ServedProcess]:
    """The same with short time-outs and few connections (`hostile_requests.LIMITS`)."""
    with served(*STRICT) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def canaries(server: ServedProcess) -> Iterator[None]:
    """Streams that run beside every test of a module and must notice none of them."""
    with singing(server):
        yield
