"""Commands that look at a device, and the proof's script, on a pretended CUDA device: how they ask it, and when they
wait. Every figure is of a made-up clock that moves with launches."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from triton_interpreter import HAS_DEVICE, torch

if HAS_DEVICE:
    pytest.skip("a real device is here", allow_module_level=True)

from pretended import Machine, pretended_device  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from vivace.backends.cuda import backend as backend_module  # noqa: E402
from vivace.backends.cuda.ceilings import measure_ceilings  # noqa: E402
from vivace.backends.cuda.kernels import registry  # noqa: E402
from vivace.cli.app import app  # noqa: E402
from vivace.engine import backend as choosing  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[3] / "benches"))

from gpu import worker  # noqa: E402
from gpu.ledger import Ledger, ledger_path  # noqa: E402
from gpu.report import failures  # noqa: E402
from gpu.setting import Setting  # noqa: E402

ENGINE = ("--quantization", "bf16", "--max-num-seqs", "2", "--max-model-len", "64", "--json")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(registry, "_complaint", lambda _: "left out here")
    small = partial(measure_ceilings, memory_bytes=1 << 16, size=64, rounds=2)
    monkeypatch.setattr(backend_module, "measure_ceilings", small)
    monkeypatch.setattr(worker, "ITEM_LIMIT_S", 3600.0)  # pytest's own limit ends what hangs
    with pretended_device() as machine:
        yield machine
    torch.set_num_threads(before)


def answered(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, arguments)
    if done.exception is not None:
        raise done.exception
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_doctor_finds_the_device_by_itself(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "DRIVER_FILES", (tmp_path,))
    report = answered("doctor", *ENGINE)
    assert "Pretended GPU" in json.dumps(report["device"])
    assert {"read_gb_per_s", "bf16_gop_per_s", "fp8_gop_per_s", "int8_gop_per_s"} <= set(report["ceilings"])
    assert report["choices"]["device"]["value"] == "cuda"
    assert report["choices"]["cuda_graphs"]["value"] > 0
    assert any(wait.kind == "event" for wait in machine.waits)


def test_profile_times_operations_by_events_of_the_device(machine: Machine) -> None:
    small = ("--streams", "2", "--prompt-len", "12", "--depth", "8", "--repeats", "2")
    report = answered("profile", "--device", "cuda", *small, *ENGINE)
    for phase in report["phases"]:
        assert {"qkv", "attention", "norms", "lm_head"} <= {group["role"] for group in phase["groups"]}
        assert all(group["ms"] > 0 for group in phase["groups"])
    assert machine.num_replays > 0


def test_the_proof_measures_a_device(machine: Machine, tmp_path: Path) -> None:
    setting = Setting("cuda", tmp_path, 20261123, rounds=1, is_tiny=True)
    assert worker.work("ceilings", setting) == worker.DONE
    for part in ("rms_norm", "product q8_0 1", "attention bf16"):
        assert worker.work("kernels", setting, part) == worker.DONE
    found = {name: Ledger(ledger_path(tmp_path, name)).records for name in ("ceilings", "kernels")}
    assert list(failures(found)) == []
    assert len(found["kernels"]) >= 3
    assert machine.waits
