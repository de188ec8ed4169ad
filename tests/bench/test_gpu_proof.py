"""benches/gpu.py on torch's CPU device with small shapes: that it has no plain bug when it meets a device."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="benches/gpu.py measures the backend that computes with torch")

BENCHES = Path(__file__).parents[2] / "benches"
sys.path.insert(0, str(BENCHES))

from gpu import device_ceilings, trace_replay, worker  # noqa: E402
from gpu.ledger import Ledger, ledger_path  # noqa: E402
from gpu.report import failures, report, too_fast  # noqa: E402
from gpu.setting import SECTIONS, Item, Setting  # noqa: E402
from gpu.targets import targets  # noqa: E402

from vivace.bench.traffic.traces.trace import read_trace  # noqa: E402

SEED = 20261122
FLAGS = Path(__file__).parents[1] / "architecture" / "flags.txt"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """An item that hangs ends its process, which is here that of all tests: pytest-timeout ends it before."""
    monkeypatch.setattr(worker, "LEAST_LIMIT_S", 3600.0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting("cpu", tmp_path, SEED, rounds=1, is_tiny=True)


def records(setting: Setting, section: str) -> dict[str, Any]:
    assert worker.work(section, setting) == worker.DONE
    found = Ledger(ledger_path(setting.out, section)).records
    assert list(failures({section: found})) == []
    return found


def test_ceilings_and_every_kernel_are_right_and_timed(setting: Setting) -> None:
    ceilings = records(setting, "ceilings")
    assert {"copy", "read", "launch", "peak bf16", "peak int8"} <= set(ceilings)
    kernels = records(setting, "kernels")
    for name in ("attention", "kv_write", "product", "rms_norm", "rope", "silu and up", "add", "sampling"):
        found = [record for key, record in kernels.items() if key.startswith(name)]
        assert any(record.get("is_right") for record in found) or name == "kv_write"
        assert any(record.get("us", 0) > 0 and record["share"] > 0 for record in found)
    attended = kernels["attention int8_per_token_head decode 2 x 40"]
    assert attended["peers"]["SDPA bf16"]["us"] > 0
    assert "product q4_0 1 rows" in report(setting.out)


def test_equivalence_is_seen(setting: Setting) -> None:
    found = records(setting, "equivalence")
    assert {key.rpartition(": ")[2] for key in found} >= {"reference", "batched", "static", "in chunks", "preempted"}
    assert all(record["num_parted"] == 0 for key, record in found.items() if "reference" not in key)
    assert found["llama bf16 auto: from cached prefixes"]["num_cached_tokens"] > 0


def test_the_engine_is_measured_beside_its_floor(setting: Setting) -> None:
    found = records(setting, "end-to-end")
    decoded = found["llama-3.1-8b bf16 decode 3"]
    assert decoded["over_floor"] == pytest.approx(decoded["step_ms"] / decoded["floor_ms"])
    assert decoded["tokens_per_s"] == pytest.approx(3e3 / decoded["step_ms"])
    assert "llama-3.1-8b bf16 prefill 24" in report(setting.out)


def test_transformers_runs_the_same_requests(setting: Setting) -> None:
    pytest.importorskip("transformers")
    for record in records(setting, "transformers").values():
        rates = record["tokens_per_s"]
        assert record["ratio"] == pytest.approx(rates["vivace"] / rates["transformers"])


def test_a_made_trace_is_one_that_is_read(setting: Setting, tmp_path: Path) -> None:
    path = trace_replay.made_trace(tmp_path / "trace.csv", setting, 4.0, 5)
    rows = list(read_trace(path))
    assert len(rows) == 5
    assert all(row.prompt_len >= 8 and row.output_len >= 2 for row in rows)


def test_the_replay_asks_for_flags_that_there_are(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    tail = {"p50": {"value": 20.0}, "p99": {"value": 30.0}}
    answer = {"ttft_ms": tail, "itl_ms": tail, "requests_per_s": 2.0, "output_tokens_per_s": 9.0, "error": None}
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=0, stdout=json.dumps(answer), stderr="")

    monkeypatch.setattr(trace_replay, "subprocess", SimpleNamespace(run=run))
    records(setting, "trace")
    asked = {word for word in commands[0] if word.startswith("--")}
    assert asked <= set(re.findall(r"^bench serve (--\S+)", FLAGS.read_text(), re.MULTILINE))
    assert "20.0 / 30.0" in report(setting.out)


def test_a_run_goes_on_behind_what_was_done_and_what_failed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def measure(key: str) -> dict[str, Any]:
        asked.append(key)
        if key == "broken":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return {"error": None, "value": 1.0, "unit": "s"}

    def items(_: Setting) -> Iterator[Item]:
        for key in ("done", "dead", "broken", "left"):
            yield Item(key, lambda key=key: measure(key))

    monkeypatch.setitem(worker.ITEMS, "ceilings", items)
    ledger = Ledger(ledger_path(setting.out, "ceilings"))
    ledger.keep("done", {"error": None, "value": 2.0, "unit": "s"})
    ledger.start("dead")
    assert Ledger(ledger_path(setting.out, "ceilings")).bury("the process died") == "dead"
    assert worker.work("ceilings", setting) == worker.LOST_DEVICE
    assert worker.work("ceilings", setting) == worker.DONE
    assert asked == ["broken", "left"]
    found = {"ceilings": Ledger(ledger_path(setting.out, "ceilings")).records}
    assert [line.partition(":")[0] for line in failures(found)] == ["- ceilings, dead", "- ceilings, broken"]
    ledger = Ledger(ledger_path(setting.out, "ceilings"))
    ledger.forget_failures()
    assert list(ledger.records) == ["done", "left"]
    late = Setting("cpu", setting.out / "late", SEED, deadline=0.0)
    late.out.mkdir()
    assert worker.work("ceilings", late) == worker.OUT_OF_TIME


def test_the_entry_runs_sections_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = runpy.run_path(str(BENCHES / "gpu.py"))
    main = entry["main"]

    def run(command: list[str], **_: object) -> SimpleNamespace:
        return SimpleNamespace(returncode=main(command[2:]))

    monkeypatch.setattr(subprocess, "run", run)
    arguments = ["--out", str(tmp_path), "--device", "cpu", "--tiny", "--rounds", "1", "--section", "ceilings"]
    assert main([*arguments, "--note", "commit 1"]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "## ceilings" in text
    assert "note commit 1" in text
    assert "not measured" in text
    assert main(["--out", str(tmp_path), "--report"]) == 0
    if not torch.cuda.is_available():
        assert main(["--out", str(tmp_path)]) == 2


def test_targets_are_met_or_missed_by_the_worst_figure() -> None:
    shares = {"attention bf16 decode 1 x 16384": {"share": 0.7}, "attention bf16 decode 64 x 2048": {"share": 0.9}}
    engine = {
        "llama-3.1-8b bf16 decode 1": {"bandwidth_share": 0.81},
        "llama-3.1-8b bf16 decode 64": {"over_floor": 1.2},
    }
    found = {one.name: one.verdict for one in targets({"kernels": shares, "end-to-end": engine})}
    assert found["attention decode, bf16"] == "MISSED"
    assert found["8B decode, 1 stream, bf16"] == "met"
    assert found["8B decode, 64 streams, over the floor"] == "met"
    assert found["8B throughput beside transformers"] == "not measured"
    assert set(SECTIONS) == set(worker.ITEMS)


def test_an_item_that_hangs_ends_before_the_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LEAST_LIMIT_S", 60.0)
    short, long = (Item("", dict, lasts_s) for lasts_s in (5.0, 50.0))
    assert worker.limit_of(short, 1e9) == 60.0
    assert worker.limit_of(long, 1e9) == 150.0
    assert worker.limit_of(long, 20.0) == 20.0 + worker.GRACE_S


@pytest.mark.parametrize(
    ("name", "copied", "is_right"),
    [
        ("NVIDIA H100 80GB HBM3", 3.0e12, True),
        ("NVIDIA H100 80GB HBM3", 6.0e12, False),
        ("NVIDIA H100 PCIe", 3.0e12, False),
        ("NVIDIA H200", 4.3e12, True),
        ("NVIDIA H200", 1.0e12, False),
        ("NVIDIA A100-SXM4-80GB", 1.7e12, True),
        ("NVIDIA GeForce RTX 4090", 0.9e12, True),
    ],
)
def test_ceilings_are_held_to_the_data_sheet(name: str, copied: float, is_right: bool) -> None:
    sheet = device_ceilings.sheet_of(name)
    assert sheet is not None
    found = device_ceilings.held_to(
        lambda: {"error": None, "value": copied, "unit": "bytes/s"},
        sheet.gb_per_s * 1e9,
        device_ceilings.MEMORY_SHARES,
    )
    assert found["is_right"] is is_right
    assert bool(list(failures({"ceilings": {"copy": found}}))) is not is_right
    assert device_ceilings.sheet_of("a device of next year") is None


def test_what_is_faster_than_the_device_is_told() -> None:
    assert too_fast({"kernels": {"one": {"share": 0.97}, "other": {"error": "died"}}}) == []
    assert "other: 140%" in too_fast({"kernels": {"one": {"share": 0.97}, "other": {"share": 1.4}}})[1]


def test_kernels_are_compiled_before_they_are_launched(tmp_path: Path) -> None:
    """Without a device."""
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, str(BENCHES / "gpu.py"), "--compile", "9.0", "--tiny", "--section", "kernels"]
    command += ["--only", "add and rms_norm 3 rows", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"compile: [1-9]\d* kernels for sm_90, 0 failed", done.stdout), done.stdout
    assert list(tmp_path.glob("*/normalize.cubin"))
