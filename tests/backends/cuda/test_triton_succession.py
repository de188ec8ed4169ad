"""Launches that overlap: what devices, drivers and the interpreter get."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from triton_interpreter import torch

from vivace.backends.cuda.kernels import succession


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A named device, whose capability and driver a test sets."""
    named = SimpleNamespace(capability=(9, 0), driver="580.65.06", device=torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: named.capability)
    monkeypatch.setattr(succession, "driver_version", lambda: named.driver)
    succession.launch_options.cache_clear()
    yield named
    succession.launch_options.cache_clear()


def test_launches_overlap_on_hopper(device: SimpleNamespace) -> None:
    assert succession.launch_options(device.device) == {"launch_pdl": True}


@pytest.mark.parametrize(
    ("capability", "driver"), [((8, 9), "580.65.06"), ((9, 0), "535.183.01"), ((9, 0), ""), ((9, 0), "a fork")]
)
def test_others_wait_for_the_end_of_a_kernel(
    device: SimpleNamespace, capability: tuple[int, int], driver: str
) -> None:
    device.capability, device.driver = capability, driver
    assert succession.launch_options(device.device) == {}


def test_the_interpreter_knows_no_overlap() -> None:
    assert succession.launch_options(torch.device("cpu")) == {}
    assert not succession.overlaps()


def test_a_kernel_waits_if_it_was_compiled_to_be_launched_so() -> None:
    for options, expected in (({"launch_pdl": True}, True), ({"launch_pdl": False}, False), ({}, False)):
        semantic = SimpleNamespace(builder=SimpleNamespace(options=SimpleNamespace(**options)))
        assert bool(succession.overlaps(_semantic=semantic)) is expected
