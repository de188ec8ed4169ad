"""The pretended CUDA device shows the faults of a first contact with a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from triton_interpreter import HAS_DEVICE, torch

if HAS_DEVICE:
    pytest.skip("a real device is here", allow_module_level=True)

from pretended import Machine, pretended_device  # noqa: E402
from pretended.machine import FaultError  # noqa: E402

from vivace.backends.cuda.backend import CudaBackend  # noqa: E402
from vivace.backends.cuda.driver import CudaDriver  # noqa: E402
from vivace.backends.cuda.kernels.rms_norm import rms_norm  # noqa: E402
from vivace.backends.cuda.transfer import Arrival, Upload  # noqa: E402

DEVICE = torch.device("cuda", 0)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with pretended_device(total_bytes=1 << 22) as machine:
        yield machine


@pytest.fixture
def ones(machine: Machine) -> torch.Tensor:  # noqa: ARG001 -- a device must be there
    return torch.ones(4, device=DEVICE)


def pinned(*numbers: float) -> torch.Tensor:
    host = torch.empty(len(numbers), pin_memory=True)
    host.numpy()[:] = numbers
    return host


def test_tensors_say_where_they_are(ones: torch.Tensor) -> None:
    made = [ones * 2, ones[1:], torch.arange(3, device="cuda"), torch.tensor([1.0], device=DEVICE), ones.view(2, 2).T]
    assert {(one.device, one.is_cuda) for one in made} == {(DEVICE, True)}
    assert ones.cpu().device.type == "cpu"
    ones[1:].mul_(3)
    assert ones.tolist() == [1, 3, 3, 3]


MIXES: list[Callable[[torch.Tensor], object]] = [
    lambda ones: ones + torch.ones(4),
    lambda ones: torch.cat([ones, torch.ones(4)]),
    lambda ones: torch.ones(4)[ones.long()],
    lambda ones: torch.where(ones > 0, ones, torch.ones(4)),
    lambda ones: ones.index_copy_(0, torch.arange(4), ones),
]


@pytest.mark.parametrize("mix", MIXES)
def test_devices_do_not_mix(mix: Callable[[torch.Tensor], object], ones: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        mix(ones)


def test_numbers_of_the_host_go_anywhere(ones: torch.Tensor, machine: Machine) -> None:
    ones += torch.tensor(2.0)
    ones[0] = 7
    assert not machine.waits
    assert ones.tolist() == [7, 3, 3, 3]


def test_numpy_sees_no_memory_of_a_device(ones: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="can't convert cuda"):
        ones.numpy()
    with pytest.raises(TypeError, match="can't convert cuda"):
        np.asarray(ones)


WAITS: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda ones: ones[0].item(),
    "bool": lambda ones: bool((ones > 0).all()),
    "list": lambda ones: ones.tolist(),
    "nonzero": lambda ones: ones.nonzero(),
    "mask": lambda ones: ones[ones > 0],
    "masked write": lambda ones: ones.__setitem__(ones > 0, torch.zeros(4, device=DEVICE)),
    "host index": lambda ones: ones[torch.tensor([1, 2])],
    "list index": lambda ones: ones[[1, 2]],
    "from the host": lambda _: torch.tensor([1, 2], device=DEVICE),
    "as_tensor": lambda _: torch.as_tensor(np.zeros(3), device=DEVICE),
    "unpinned": lambda ones: ones.copy_(torch.zeros(4), non_blocking=True),
    "to the host": lambda ones: torch.empty(4).copy_(ones, non_blocking=True),
    "repeats": lambda ones: torch.repeat_interleave(ones, ones.long()),
    "equal": lambda ones: torch.equal(ones, ones),
}


@pytest.mark.parametrize("name", WAITS)
def test_waits_are_seen_and_no_capture_has_any(name: str, ones: torch.Tensor, machine: Machine) -> None:
    with machine.counted() as waits:
        WAITS[name](ones)
    assert len(waits) == 1
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="captur"), torch.cuda.graph(graph):
        WAITS[name](ones)
    assert machine.recording is None


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda: torch.empty(4, pin_memory=True),
        lambda: torch.cuda.mem_get_info(),
        lambda: torch.cuda.empty_cache(),
        lambda: torch.cuda.Event().query(),
        lambda: torch.cuda.synchronize(),
    ],
)
def test_what_else_no_capture_has(forbidden: Callable[[], object], machine: Machine) -> None:
    with pytest.raises(RuntimeError, match="captur"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        forbidden()
    assert machine.recording is None


def test_a_replay_reads_what_is_there_and_freezes_what_the_host_said(ones: torch.Tensor, machine: Machine) -> None:
    total, factor = torch.zeros(4, device=DEVICE), 2.0
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        total += ones * factor
    assert total.tolist() == [0] * 4  # nothing runs while it is captured
    factor = 100.0
    ones.fill_(3)
    graph.replay()
    graph.replay()
    assert total.tolist() == [12] * 4
    assert machine.num_replays == 2


def test_a_replay_finds_no_memory_that_was_given_back(ones: torch.Tensor) -> None:
    inputs = torch.ones(4, device=DEVICE)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ones.add_(inputs)
    graph.replay()
    del inputs
    with pytest.raises(FaultError, match="given back"):
        graph.replay()


def test_values_of_a_pool_outlive_no_replay(ones: torch.Tensor) -> None:
    pool, graphs, values = torch.cuda.graph_pool_handle(), [], []
    for factor in (2, 3):
        graphs.append(torch.cuda.CUDAGraph())
        with torch.cuda.graph(graphs[-1], pool=pool):
            values.append(ones * factor)
    graphs[0].replay()
    assert values[0].tolist() == [2] * 4
    graphs[1].replay()
    assert values[1].tolist() == [3] * 4
    assert values[0].tolist() != [2] * 4


def test_pinned_memory_is_not_written_too_early(machine: Machine) -> None:
    host, copied = pinned(1, 2, 3, 4), torch.cuda.Event()
    device = torch.empty(4, device=DEVICE)
    device.copy_(host, non_blocking=True)
    copied.record()
    host += 1
    with pytest.raises(FaultError, match="before its copy was over"):
        copied.synchronize()
    host -= 1
    copied.synchronize()
    host += 1
    machine.check_copies()


def test_what_comes_to_pinned_memory_comes_with_its_event(ones: torch.Tensor, machine: Machine) -> None:
    arrival = Arrival(ones)
    ones.zero_()
    assert arrival._host.tolist() != [1] * 4
    with machine.counted() as waits:
        assert arrival.read().tolist() == [1] * 4
        assert arrival.read().tolist() == [1] * 4
    assert [wait.kind for wait in waits] == ["event"]


def test_uploads_wait_for_nothing_until_the_device_is_far_behind(machine: Machine) -> None:
    upload = Upload(DEVICE)
    arrays = [{"x": np.array([number, -number], np.int32)} for number in range(20)]
    sent = [upload.send(one)["x"] for one in arrays[:8]]
    assert not machine.waits
    sent += [upload.send(one)["x"] for one in arrays[8:]]
    assert machine.waits
    assert [one.tolist() for one in sent] == [one["x"].tolist() for one in arrays]


def test_streams_do_not_see_each_others_work_before_they_wait(ones: torch.Tensor) -> None:
    side = torch.cuda.Stream()
    ones.add_(1)
    with torch.cuda.stream(side), pytest.raises(FaultError, match="another stream"):
        ones.add_(1)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        ones.add_(1)
    with pytest.raises(FaultError, match="another stream"):
        ones.add_(1)
    torch.cuda.current_stream().wait_stream(side)
    assert ones.tolist() == [3] * 4


def test_the_driver_by_torch(ones: torch.Tensor, machine: Machine) -> None:
    driver = CudaDriver(DEVICE)
    free, total = driver.memory()
    assert 0 < free < total
    result, most = driver.warm_up(lambda: ones * 2, 2)
    assert 16 <= most <= 32
    replay = driver.capture(lambda: ones.copy_(result + ones), driver.graph_pool())
    replay()
    assert ones.tolist() == [3] * 4
    held = torch.empty(1 << 20, dtype=torch.uint8, device=DEVICE)
    assert driver.memory()[0] <= free - (1 << 20)
    del held
    driver.release()
    assert driver.memory()[0] >= free - 64
    with pytest.raises(torch.cuda.OutOfMemoryError):
        torch.empty(machine.total_bytes, dtype=torch.uint8, device=DEVICE)


def test_kernels_take_pointers_of_the_current_device() -> None:
    with pretended_device(num_devices=2):
        first, second = (torch.ones((1, 32), device=f"cuda:{index}") for index in range(2))
        assert rms_norm(first, first[0], 0.0).tolist() == first.tolist()
        with pytest.raises(ValueError, match="cpu tensor"):
            rms_norm(first, torch.ones(32), 0.0)
        with pytest.raises(RuntimeError, match="current device"):
            rms_norm(second, second[0], 0.0)
        with torch.cuda.device(1):
            assert rms_norm(second, second[0], 0.0).tolist() == second.tolist()


def test_nothing_is_left_of_it() -> None:
    with pretended_device():
        assert CudaBackend("cuda:0").facts is not None
    assert not torch.cuda.is_available()
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        torch.empty(3, device="cuda")
