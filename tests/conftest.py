"""What every test may ask for."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings

# A process that stands still for a second between two lines is no slow test.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


class TookTooLong(SystemExit):
    """Of all that a signal's handler may raise, uvloop lets only this and an interrupt through."""


@pytest.hookimpl
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """pytest-timeout's handler raises what uvloop logs and forgets: a test that hangs there would hang for good."""
    if settings.method != "signal":
        return None

    def give_up(*_: object) -> NoReturn:
        raise TookTooLong(f"{item.nodeid} is not done after {settings.timeout:.0f} s")

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout)
    item.cancel_timeout = cancel  # type: ignore[attr-defined]
    return True


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data beside the repository (`../shared`, or what VIVACE_SHARED names)."""
    beside = Path(__file__).parents[1] / ".." / "shared"
    directory = Path(os.environ.get("VIVACE_SHARED", beside)).resolve()
    if not directory.is_dir():
        pytest.skip(f"no data directory {directory}; set VIVACE_SHARED")
    return directory
