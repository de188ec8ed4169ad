"""One section in this process: its items one after the other, each written down as it ends."""

from __future__ import annotations

import faulthandler
import platform
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from gpu.device_ceilings import ceiling_items
from gpu.end_to_end import end_to_end_items
from gpu.equivalence import equivalence_items
from gpu.kernels import kernel_items
from gpu.ledger import Ledger, ledger_path
from gpu.report import cells
from gpu.setting import Item, Setting
from gpu.trace_replay import trace_items
from gpu.transformers_peer import transformers_items
from vivace import __version__

ITEMS: dict[str, Callable[[Setting], Iterator[Item]]] = {
    "ceilings": ceiling_items,
    "kernels": kernel_items,
    "equivalence": equivalence_items,
    "end-to-end": end_to_end_items,
    "transformers": transformers_items,
    "trace": trace_items,
}
# An item that takes longer hangs: the process dies with its stack, and the next item begins in another.
LEAST_LIMIT_S, LIMIT_FACTOR, GRACE_S = 60.0, 3.0, 10.0
DONE, OUT_OF_TIME, LOST_DEVICE = 0, 75, 76


def work(section: str, setting: Setting, only: str = "") -> int:
    """DONE; OUT_OF_TIME where items are left; LOST_DEVICE after an error that leaves the device's context unusable.
    `only`: items whose names contain it."""
    torch.manual_seed(setting.seed)
    if setting.device == "cpu":
        torch.set_num_threads(1)
    ledger = Ledger(ledger_path(setting.out, section))
    ledger.describe(about(setting))
    for item in ITEMS[section](setting):
        if item.key in ledger.records or only not in item.key:
            continue
        if setting.left_s < item.lasts_s:
            print(f"{section}: out of time before {item.key}", flush=True)
            return OUT_OF_TIME
        ledger.start(item.key)
        faulthandler.dump_traceback_later(limit_of(item, setting.left_s), exit=True)
        started = time.perf_counter()
        record = _record(item)
        faulthandler.cancel_dump_traceback_later()
        ledger.keep(item.key, record | {"took_s": round(time.perf_counter() - started, 2)})
        print(f"{section}: {item.key} | " + " | ".join(cells(section, record)), flush=True)
        if is_lost(record):
            return LOST_DEVICE
        if setting.device == "cuda":
            torch.cuda.empty_cache()  # the next one's buffers have other sizes
    return DONE


def limit_of(item: Item, left_s: float) -> float:
    """Seconds after which it hangs: some times what it takes, and not far behind the end of the run."""
    return min(max(LEAST_LIMIT_S, LIMIT_FACTOR * item.lasts_s), left_s + GRACE_S)


def _record(item: Item) -> dict[str, Any]:
    try:
        return item.measure()
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {str(error)[:600]}", "stack": traceback.format_exc()[-3000:]}


def is_lost(record: dict[str, Any]) -> bool:
    """CUDA refuses everything after an illegal access, until the process ends."""
    error = str(record.get("error") or "")
    return "CUDA error" in error or "Triton Error [CUDA]" in error or "illegal memory access" in error


def about(setting: Setting) -> dict[str, Any]:
    """The device, versions and seed of a run."""
    found: dict[str, Any] = {"seed": setting.seed, "vivace": __version__, "torch": torch.__version__}
    found |= {"python": platform.python_version(), "rounds": setting.rounds}
    found |= {name: _version(name) for name in ("triton", "transformers")}
    if setting.note:
        found["note"] = setting.note
    if setting.device == "cuda":
        facts = setting.backend().facts
        assert facts is not None  # it is a device
        found |= {"device": facts.name, "capability": facts.capability, "cuda": facts.cuda_version}
        found["free_gib"] = round(facts.free_bytes / 2**30, 1)
    else:
        found["device"] = "torch's CPU device"
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
