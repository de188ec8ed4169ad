"""`vivace tokenize`: the token ids of a text."""

from __future__ import annotations

from typing import Annotated

import typer

from vivace.cli.options import MODEL_ONLY, takes
from vivace.cli.prompt import PromptOption, read_prompt
from vivace.core.config import EngineConfig


@takes(config=MODEL_ONLY)
def tokenize(
    config: EngineConfig,
    prompt: PromptOption = None,
    special: Annotated[
        bool, typer.Option("--special/--no-special", help="Add the tokens that open (or close) a text.")
    ] = True,
) -> None:
    """Print token ids, separated by blanks. MODEL may be a GGUF file with a vocabulary only."""
    text = read_prompt(prompt, config.model)
    from vivace.engine.loader import load_model_tokenizer

    print(*load_model_tokenizer(config).encode(text, add_special=special))
