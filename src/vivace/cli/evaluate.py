"""`vivace evaluate`: perplexity and bits per byte of a text file."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vivace.cli.options import ENGINE, takes
from vivace.cli.screen import counter
from vivace.cli.session import open_llm
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError


@takes(config=ENGINE)
def evaluate(
    config: EngineConfig,
    dataset: Annotated[Path, typer.Option(help="A text file in UTF-8.")],
    window: Annotated[
        int | None, typer.Option(help="Tokens in a window; default: the context, 2048 at most.")
    ] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens between windows; default: half a window.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a model's perplexity on a text."""
    text = _read(dataset)
    llm = open_llm(config)
    from vivace.evaluate.perplexity import perplexity

    result = perplexity(llm, text, window=window, stride=stride, progress=counter("windows"))
    if as_json:
        print(json.dumps({"model": config.model, "dataset": str(dataset), **asdict(result)}))
        return
    print(f"perplexity     {result.perplexity:.4f}")
    print(f"bits per byte  {result.bits_per_byte:.4f}")
    print(
        f"{result.num_tokens} tokens ({result.num_bytes} bytes) in {result.num_windows} windows of {result.window}, "
        f"stride {result.stride}",
        file=sys.stderr,
    )


def _read(dataset: Path) -> str:
    try:
        return dataset.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"cannot read {dataset}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{dataset} is not UTF-8 text (byte {error.start})") from None
