"""vivace.toml: the configuration that was measured, with the reason for every line."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from typing import Any

from vivace.core.config import EngineConfig
from vivace.core.speculation import SpeculativeConfig
from vivace.optimize.answer import Answer
from vivace.optimize.reasons import reasons

WIDTH = 88
# What follows from nothing that was searched, or is better left to the machine that serves.
LEFT_OUT = (
    "kv_cache_memory_bytes",
    "backend",
    "packed_cache",
    "enable_chunked_prefill",
    "static_batch_size",
    "static_batch_timeout_ms",
)


def configuration_text(answer: Answer, config: EngineConfig) -> str:
    """The whole file. `config` is the pick's engine configuration, as it ran."""
    lines = [f"# {line}" for line in _heading(answer)]
    lines += ["", "[engine]"]
    why = reasons(answer, config)
    default = EngineConfig()
    for name, value in _values(config).items():
        if value is None or (name not in why and value == getattr(default, name)) or name in LEFT_OUT:
            continue
        lines += ["", *(f"# {line}" for line in textwrap.wrap(why.get(name, "as asked"), WIDTH - 2))]
        lines.append(f"{name} = {_toml(value)}")
    lines += [
        "",
        "[serve]",
        "",
        "# the only address that needs no key; change both together",
        'host = "127.0.0.1"',
    ]
    return "\n".join(lines) + "\n"


def _heading(answer: Answer) -> list[str]:
    pick, extra = answer.pick.measured, answer.extra
    first = (
        f"{answer.pick.tokens_per_s:,.0f} output tokens/s, {pick.single_latency_ms:.1f} ms for one user's answer, "
        f"{pick.memory_bytes / 2**20:,.0f} MiB of weights and cache"
    )
    if pick.offered_latency_ms is not None:
        first += f", {pick.offered_latency_ms:.1f} ms an answer at {pick.offered_per_s:g} requests/s"
    lines = [
        f"Written by vivace optimize {extra.get('version', '')}: model {extra.get('model', '')}, "
        f"workload {extra.get('workload', '')}, on {extra.get('machine', '')}.",
        f"Measured: {first}: {answer.speedup.value:.1f} times the naive baseline's throughput.",
        "Run it: vivace serve --config THIS_FILE",
    ]
    return [line for long in lines for line in textwrap.wrap(long, WIDTH - 2)]


def _values(config: EngineConfig) -> dict[str, Any]:
    names = EngineConfig.__dataclass_fields__
    return {name: getattr(config, name) for name in names}


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, SpeculativeConfig):
        entries = {name: entry for name, entry in asdict(value).items() if entry is not None}
        return "{ " + ", ".join(f"{name} = {_toml(entry)}" for name, entry in entries.items()) + " }"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value)  # TOML's basic strings have JSON's escapes
    return repr(value)
