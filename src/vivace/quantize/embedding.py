"""Calibration tokens as the first layer's inputs. Shape letters: S windows, L their length, T = S * L, D hidden."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import ModelFileError
from vivace.quantize.decoder_layer import Floats
from vivace.quantize.source_model import SourceModel

TOKENS_AT_ONCE = 4096


def embed(model: SourceModel, token_ids_SL: NDArray[np.int32], hidden_TD: Floats) -> None:
    """Writes the tokens' rows of the table, times the model's scale.

    Raises ModelFileError where the tokenizer gives an id that the table does not have.
    """
    ids_T = token_ids_SL.reshape(-1)
    largest = int(ids_T.max())
    if largest >= model.spec.vocab_size:
        reason = f"its tokenizer gives token {largest}, the table has {model.spec.vocab_size} rows"
        raise ModelFileError(model.directory, reason)
    for start in range(0, len(ids_T), TOKENS_AT_ONCE):
        tokens = slice(start, start + TOKENS_AT_ONCE)
        rows = model.values("token_embedding", rows=ids_T[tokens].astype(np.intp))
        hidden_TD[tokens] = rows * np.float32(model.spec.embedding_scale)
