"""`python killed_run.py MODEL OUT METHOD N`: a quantisation that is killed (SIGKILL) at its N-th sync to disk."""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from pathlib import Path

from vivace.quantize.options import quantize_options
from vivace.quantize.quantization import quantize_model

ASKED = {"group_size": 32, "num_samples": 4, "seq_len": 32, "format": "dense"}


def options_of(method: str, seed: int = 0) -> dict[str, object]:
    unread = {"rtn": ("num_samples", "seq_len")}.get(method, ())
    asked = {name: value for name, value in ASKED.items() if name not in unread}
    return asked | {"seed": seed} | ({"target_bits": 6.0} if method == "mixed" else {})


def run(model: str, output: str, method: str, kill_at: int) -> None:
    syncs, sync = count(1), os.fsync

    def counted(descriptor: int) -> None:
        if next(syncs) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    os.fsync = counted
    quantize_model(
        model, Path(output), quantize_options(method, **options_of(method)), calibration=f"{model}/text.txt"
    )


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
