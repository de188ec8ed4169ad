"""Section (e): what users of a server feel under a replayed trace: `vivace bench serve` with its own server.

Without --trace FILE one is made, in the form of Azure's: bursts of prompts and answers whose lengths are lognormal,
medians as in that of 2023 for conversations (about 1000 tokens in, 130 out).
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import vivace
from gpu.setting import Item, Setting
from gpu.shapes import shape_of

TOKENIZER = Path(vivace.__file__).parent / "resources" / "embedded"  # any: random weights write random text
RUNS = (("llama-3.1-8b", "bf16", 4.0, 120), ("llama-3.1-8b", "int4", 4.0, 120), ("llama-3.1-8b", "bf16", 12.0, 240))
LONGEST_PROMPT, LONGEST_ANSWER = 6_000, 600
STARTED = datetime(2024, 5, 10, tzinfo=UTC)
KEPT = ("ttft_ms", "itl_ms", "tpot_ms", "e2el_ms", "requests_per_s", "output_tokens_per_s", "error", "traffic")


def trace_items(setting: Setting) -> Iterator[Item]:
    for shape, quantization, rate, count in RUNS[:1] if setting.is_tiny else RUNS:
        key = f"{shape} {quantization} {rate:g} requests/s"
        yield Item(key, partial(replay, setting, shape, quantization, rate, count), 70.0 + count / rate)


def replay(setting: Setting, shape: str, quantization: str, rate: float, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = 3 if setting.is_tiny else count
        trace = setting.trace or str(made_trace(folder / "trace.csv", setting, rate, count))
        config = folder / "config.json"
        config.write_text(json.dumps(shape_of(shape, setting)))
        command = [sys.executable, "-m", "vivace", "bench", "serve", "--load-format", "dummy"]
        command += ["--config", str(config), "--tokenizer", str(TOKENIZER), "--quantization", quantization]
        command += ["--backend", "cuda", "--device", setting.device, "--trace", trace, "--json"]
        command += ["--num-requests", str(count), "--store", str(folder / "store.db"), "--warm-up", "2"]
        if setting.is_tiny:
            command += ["--num-kv-blocks", "64", "--max-model-len", "256"]
        limit_s = 60.0 if setting.is_tiny else min(200.0, setting.left_s)
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    if ended.returncode:
        return {"error": f"exit code {ended.returncode}: {ended.stderr.strip()[-600:]}"}
    found = json.loads(ended.stdout)
    return {name: found.get(name) for name in KEPT} | {"error": found.get("error"), "command": command[2:]}


def made_trace(path: Path, setting: Setting, rate: float, count: int) -> Path:
    rng = np.random.default_rng([setting.seed, count])
    gaps_s = rng.gamma(0.5, 2 / rate, count)  # burstier than Poisson
    prompts = np.clip(rng.lognormal(np.log(1_000), 1.0, count), 16, LONGEST_PROMPT).astype(int)
    answers = np.clip(rng.lognormal(np.log(130), 0.8, count), 4, LONGEST_ANSWER).astype(int)
    if setting.is_tiny:
        gaps_s, prompts, answers = gaps_s * 0.01, prompts % 20 + 8, answers % 4 + 2
    moment = STARTED
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["TIMESTAMP", "ContextTokens", "GeneratedTokens"])
        for gap_s, prompt, answer in zip(gaps_s, prompts, answers, strict=True):
            moment += timedelta(seconds=float(gap_s))
            rows.writerow([moment.isoformat(sep=" ", timespec="microseconds"), prompt, answer])
    return path
