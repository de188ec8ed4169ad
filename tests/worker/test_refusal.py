"""Errors cross the channel as data and are the same on the other side."""

from __future__ import annotations

import pytest

from vivace.core.errors import (
    ConfigError,
    ContextLengthError,
    EngineError,
    ModelFileError,
    RequestError,
    UnsupportedError,
    VivaceError,
)
from vivace.worker.messages import ErrorData
from vivace.worker.refusal import error_as_data, error_from_data


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("a"),
        UnsupportedError("b"),
        ModelFileError("/m/x.gguf", "short", field="blk.0", offset=77),
        ModelFileError("/m/x.gguf", "short"),
        RequestError("c", param="n"),
        RequestError("c"),
        ContextLengthError("d", param="prompt"),
        EngineError("e"),
    ],
)
def test_our_errors_stay_what_they_are(error: VivaceError) -> None:
    again = error_from_data(error_as_data(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_other_errors_are_the_engines_fault_and_name_their_class() -> None:
    again = error_from_data(error_as_data(MemoryError("no room")))
    assert (type(again), str(again)) == (EngineError, "MemoryError: no room")
    assert type(error_from_data(ErrorData("SystemExit", "x"))) is EngineError
