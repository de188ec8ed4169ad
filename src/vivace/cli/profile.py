"""`vivace profile`: where a step's time goes, op by op, beside the ceiling that binds each."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vivace.cli.options import ENGINE, takes
from vivace.cli.screen import counter
from vivace.cli.session import open_llm
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError

if TYPE_CHECKING:
    from vivace.bench.profile import PhaseProfile
    from vivace.bench.profile_step import Phase

BAR_CELLS = 10


@takes(config=ENGINE)
def profile(
    config: EngineConfig,
    streams: Annotated[int, typer.Option(help="Streams of the batch that decodes, beside one alone.", min=1)] = 16,
    prompt_len: Annotated[int, typer.Option(help="Tokens of the prefill chunk.", min=1)] = 512,
    depth: Annotated[int, typer.Option(help="Tokens of context before each step.", min=0)] = 512,
    repeats: Annotated[int, typer.Option(help="Decode steps measured; prefill: a fifth.", min=1)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show where a step's time goes: decode of one stream and of a batch, and a chunk of a prompt."""
    llm = open_llm(_sized(config, depth + prompt_len + 1))
    from vivace.bench.machine import barrier_probe, ceiling_probe
    from vivace.bench.profile import profile as measure

    loaded = llm.loaded
    profiles = measure(
        loaded,
        _phases(streams, prompt_len, depth),
        repeats=repeats,
        clock=time.perf_counter,
        probe=ceiling_probe(loaded.backend),
        barrier=barrier_probe(loaded.backend),
        progress=counter("phases"),
    )
    if as_json:
        model = {"model": config.model or config.config or "embedded", "weight_bytes": loaded.weight_bytes}
        print(json.dumps({**model, "phases": [_record(one) for one in profiles]}))
        return
    for one in profiles:
        _print(one)


def _sized(config: EngineConfig, num_tokens: int) -> EngineConfig:
    """Unless asked otherwise, a context that just holds the steps, and a pool that holds one: steps are measured over
    a cache of their own."""
    if config.num_kv_blocks is None and config.kv_cache_memory_bytes is None:
        config = replace(config, num_kv_blocks=-(-num_tokens // config.block_size))
    if config.max_model_len is None:
        return replace(config, max_model_len=num_tokens)
    if config.max_model_len < num_tokens:
        raise ConfigError(f"the steps reach {num_tokens} tokens, --max-model-len allows {config.max_model_len}")
    return config


def _phases(streams: int, prompt_len: int, depth: int) -> list[Phase]:
    from vivace.bench.profile_step import Phase

    alone = Phase("decode, 1 stream", 1, 1, depth)
    batch = Phase(f"decode, {streams} streams", streams, 1, depth)
    chunk = Phase(f"prefill of {prompt_len} tokens", 1, prompt_len, depth)
    return [alone, batch, chunk] if streams > 1 else [alone, chunk]


def _record(one: PhaseProfile) -> dict[str, Any]:
    from vivace.bench.verdict import verdict

    return {**one.record(), "verdict": verdict(one)}


def _print(one: PhaseProfile) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from vivace.bench.verdict import verdict

    record = one.record()
    title = (
        f"{one.phase.name} at depth {one.phase.depth}: {record['step_ms']:.2f} ms, {one.tokens_per_s:.1f} tokens/s"
    )
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    table.add_column("operations")
    for heading in ("", "ms", "%", "MB", "GB/s", "GOP/s", "of ceiling"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    longest = max(group["share"] for group in record["groups"])
    for group in record["groups"]:
        cells = round(BAR_CELLS * group["share"] / longest)
        ceiling = "" if group["bound"] is None else f"{group['share_of_ceiling']:.0%} {group['bound']}"
        table.add_row(
            f"{group['role']} x{group['num_ops']}",
            "█" * cells,
            f"{group['ms']:.3f}",
            f"{100 * group['share']:.1f}",
            f"{group['bytes'] / 1e6:.1f}",
            f"{group['gb_per_s']:.1f}",
            f"{group['gop_per_s']:.0f}",
            ceiling,
        )
    console = Console(highlight=False)
    console.print(table)
    for line in verdict(one):
        console.print(f"  {line}", soft_wrap=True)
    console.print()
