"""What the front and the process that tries out constraints say to each other."""

from __future__ import annotations

from typing import Literal

import msgspec

from vivace.core.config import EngineConfig
from vivace.core.structured_outputs import StructuredOutputs


class Prepare(msgspec.Struct, array_like=True, tag=1):
    """The first message: load this model's tokenizer."""

    config: EngineConfig


class Try(msgspec.Struct, array_like=True, tag=2):
    """Compile this, and say how it went."""

    number: int
    outputs: StructuredOutputs


class Prepared(msgspec.Struct, array_like=True, tag=16):
    """The tokenizer is loaded; `failure` says why not."""

    failure: str | None = None


class Verdict(msgspec.Struct, array_like=True, tag=17):
    """`refused`: the constraint is wrong or costs too much, always. `late`: the machine was too busy to tell."""

    number: int
    outcome: Literal["accepted", "refused", "late"]
    message: str = ""


Question = Prepare | Try
Answer = Prepared | Verdict
