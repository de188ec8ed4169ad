"""Who is measured: a server at a URL, or one of ours that runs for as long as the benchmark does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from vivace.bench.load.address import Address
from vivace.bench.load.description import Description
from vivace.bench.load.own_server import own_server
from vivace.bench.load.run import server_description
from vivace.bench.load.target import Endpoint, Target
from vivace.bench.traffic.prompt_text import TextEncoder
from vivace.cli.load_options import LoadOptions
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.engine.loader import load_model_tokenizer
from vivace.serve.config_file import SUFFIX

CONTEXT_LEN = 2048  # tokens, where neither flag nor server tells
KEY_VARIABLE = "VIVACE_API_KEY"
SHARED = ("model", "tokenizer", "seed", "max_model_len")  # flags that say something of the traffic as well


@dataclass(frozen=True, slots=True)
class OpenTarget:
    """A server that answers, what it says of itself, and what counts the tokens of prompts for it."""

    target: Target
    description: Description
    tokenizer: TextEncoder
    max_model_len: int
    name: str  # as the user gave it
    flags: tuple[str, ...] = ()  # of our own server


@contextmanager
def open_target(
    name: str | None,
    url: str | None,
    load: LoadOptions,
    engine: Mapping[str, Any],
    *,
    api_key: str | None = None,
    model_name: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[OpenTarget]:
    """The server at `url`, or our own with the model `name`. Raises `TargetError` and `ConfigError`."""
    key = api_key or os.environ.get(KEY_VARIABLE)
    if url is not None:
        wrong = [flag for flag in engine if flag not in SHARED]
        if name is not None or wrong:
            what = "a model" if name is not None else "--" + wrong[0].replace("_", "-")
            raise ConfigError(f"{what} is for a server that this command starts; the one at --url has its own")
        yield _opened(Address.parse(url), load, engine, key, model_name, None, url)
        return
    flags = server_flags(name, engine)
    say(f"starting vivace serve {' '.join(flags)}".rstrip())
    with own_server(flags) as server:
        shown = name or "embedded"
        yield _opened(Address.parse(server.url), load, engine, None, model_name, server.pid, shown, flags)


@contextmanager
def open_side(
    side: str,
    load: LoadOptions,
    engine: Mapping[str, Any],
    max_model_len: int | None,
    api_key: str | None,
    say: Callable[[str], None],
) -> Iterator[OpenTarget]:
    """One side of a comparison: what has `://` in it is a URL, anything else a model for a server of ours."""
    options = {**engine} if max_model_len is None else {**engine, "max_model_len": max_model_len}
    is_url = "://" in side
    model = None if is_url or side == "embedded" else side
    with open_target(model, side if is_url else None, load, options, api_key=api_key, say=say) as opened:
        yield opened


def server_flags(name: str | None, engine: Mapping[str, Any]) -> tuple[str, ...]:
    """Arguments of `vivace serve`: the model, or a configuration file by its ending, and flags that were given."""
    flags: list[str] = []
    if name is not None:
        flags += ["--config", name] if name.endswith(SUFFIX) else [name]
    for flag, value in engine.items():
        if flag == "model":
            continue
        option = flag.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{option}" if value else f"--no-{option}")
        else:
            for one in value if isinstance(value, tuple) else (value,):
                flags += [f"--{option}", str(one)]
    return tuple(flags)


def _opened(
    address: Address,
    load: LoadOptions,
    engine: Mapping[str, Any],
    key: str | None,
    model_name: str | None,
    process: int | None,
    name: str,
    flags: tuple[str, ...] = (),
) -> OpenTarget:
    target = Target(
        address,
        model=model_name,
        api_key=key,
        endpoint=cast("Endpoint | None", load.endpoint),
        extra=load.extra(),
        max_concurrency=load.max_concurrency,
        num_retries=load.retries,
        timeout_s=load.request_timeout,
        process=process,
    )
    description = server_description(target)
    context = engine.get("max_model_len") or description.max_model_len or CONTEXT_LEN
    source = engine.get("tokenizer") or (name if process is not None and name != "embedded" else None)
    if source is not None and str(source).endswith(SUFFIX):
        source = None
    tokenizer = load_model_tokenizer(EngineConfig(model=source))
    target = replace(target, kind=description.kind)  # a run that is interrupted before it asks again knows it
    return OpenTarget(target, description, tokenizer, min(context, description.max_model_len or context), name, flags)
