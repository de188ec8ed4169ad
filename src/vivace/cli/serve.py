"""`vivace serve`: the OpenAI-compatible server. Default < file < flag."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from vivace.cli.options import ENGINE, ENGINE_HELP, SERVE, takes
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.serve.config import ServeConfig
from vivace.serve.config_file import SUFFIX, ConfigFile

T = TypeVar("T")

KEY_VARIABLE = "VIVACE_API_KEY"
CONFIG_HELP = f"A configuration file (*{SUFFIX}) with the tables [engine] and [serve]. Else: {ENGINE_HELP['config']}"


@takes(engine=ENGINE.given(config=CONFIG_HELP), server=SERVE.given())
def serve(engine: dict[str, Any], server: dict[str, Any]) -> None:
    """Serve a model over HTTP, as OpenAI's clients expect it. SIGTERM or Ctrl-C lets running requests end."""
    engine_config, config = configurations(engine, server, os.environ.get(KEY_VARIABLE))
    from vivace.serve.server import serve as serve_until_signal

    code = serve_until_signal(engine_config, config)
    if code:
        raise typer.Exit(code)


def configurations(
    engine: dict[str, Any], server: dict[str, Any], environment_key: str | None = None
) -> tuple[EngineConfig, ServeConfig]:
    """Both configurations from the flags that were given and the file that `config` may name."""
    name = engine.get("config")
    file = None
    if name is not None and name.endswith(SUFFIX):
        file = ConfigFile(name)
        engine = {key: value for key, value in engine.items() if key != "config"}
    engine_config = _built(EngineConfig.from_options, file, "engine", engine)
    if environment_key is not None and not {*server, *(file.table("serve") if file else ())} & {
        "api_key",
        "api_key_file",
    }:
        server = {**server, "api_key": (environment_key,)}
    return engine_config, _built(lambda values: ServeConfig(**values), file, "serve", server)


def _built(build: Callable[[dict[str, Any]], T], file: ConfigFile | None, table: str, flags: dict[str, Any]) -> T:
    """The flags over the file's table."""
    if file is None:
        return build(flags)
    try:
        return build({**file.table(table), **flags})
    except ConfigError as error:
        raise file.located(error, table, flags) from None
