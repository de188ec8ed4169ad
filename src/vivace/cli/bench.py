"""`vivace bench latency` and `vivace bench throughput`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

from vivace.cli.options import ENGINE, takes
from vivace.cli.screen import counter
from vivace.cli.session import open_llm
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError

PromptLen = Annotated[int, typer.Option(help="Tokens of each prompt (random ids).", min=1)]
OutputLen = Annotated[int, typer.Option(help="Tokens of each answer (end tokens are ignored).", min=1)]
WarmUp = Annotated[int, typer.Option(help="Runs that are not counted.", min=0)]
Repeats = Annotated[int, typer.Option(help="Runs that are counted.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@takes(config=ENGINE)
def bench_latency(
    config: EngineConfig,
    batch_size: Annotated[
        list[int] | None, typer.Option(help="Streams that start together; may be repeated. Default: 1.", min=1)
    ] = None,
    prompt_len: PromptLen = 512,
    output_len: OutputLen = 64,
    warm_up: WarmUp = 1,
    repeats: Repeats = 5,
    as_json: Json = False,
) -> None:
    """Time to first token, gaps between tokens, and speed of a few streams."""
    _bench(config, batch_size or [1], prompt_len, output_len, warm_up, repeats, as_json)


@takes(config=ENGINE)
def bench_throughput(
    config: EngineConfig,
    num_requests: Annotated[int, typer.Option(help="Requests that arrive together.", min=1)] = 16,
    prompt_len: PromptLen = 128,
    output_len: OutputLen = 64,
    warm_up: WarmUp = 1,
    repeats: Repeats = 3,
    as_json: Json = False,
) -> None:
    """Tokens and requests a second under many requests at once."""
    _bench(config, [num_requests], prompt_len, output_len, warm_up, repeats, as_json)


def _bench(
    config: EngineConfig,
    sizes: list[int],
    prompt_len: int,
    output_len: int,
    warm_up: int,
    repeats: int,
    as_json: bool,
) -> None:
    llm = open_llm(_sized(config, prompt_len + output_len))
    from vivace.bench.benchmark import measure
    from vivace.bench.machine import ceiling_probe
    from vivace.bench.report import lines
    from vivace.bench.workload import Workload

    measurements = [
        measure(
            llm.loaded,
            Workload(size, prompt_len, output_len),
            warm_up=warm_up,
            repeats=repeats,
            seed=config.seed,
            clock=time.perf_counter,
            probe=ceiling_probe(llm.loaded.backend),
            progress=counter("runs"),
        )
        for size in sizes
    ]
    if as_json:
        records = [measurement.record() for measurement in measurements]
        print(json.dumps({**_model(config, llm.loaded), **records[0], "results": records}))
        return
    for measurement in measurements:
        print(*lines(measurement), sep="\n", flush=True)


def _sized(config: EngineConfig, num_tokens: int) -> EngineConfig:
    """Unless asked otherwise, a context that just holds the workload: the pool is then no larger than needed."""
    if config.max_model_len is None:
        return replace(config, max_model_len=num_tokens)
    if config.max_model_len < num_tokens:
        raise ConfigError(f"the workload needs {num_tokens} tokens, --max-model-len allows {config.max_model_len}")
    return config


def _model(config: EngineConfig, loaded: Any) -> dict[str, object]:
    return {
        "model": config.model or config.config or "embedded",
        "quantization": config.quantization,
        "weight_bytes": loaded.weight_bytes,
        "layout": loaded.parameters.layers[0].q.layout,
        "kv_cache_dtype": loaded.kv_spec.dtype,
        "kv_bytes_per_token": loaded.kv_spec.bytes_per_token,
        "num_threads": config.num_threads,
        "gpu": _gpu(loaded),
    }


def _gpu(loaded: Any) -> dict[str, object] | None:
    """None where the engine runs on the processor."""
    if loaded.backend.name != "cuda" or loaded.backend.facts is None:
        return None
    return asdict(loaded.backend.facts)
