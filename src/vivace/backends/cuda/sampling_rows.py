"""A step's sampling parameters on the device: one copy from pinned memory, whatever the rows ask for.

Shape letters: S rows, E entries of all rows, R masks, W words of a mask.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vivace.backends.cuda.transfer import Upload
from vivace.ops.backend import Float32Array, Int32Array, SampleInputs

COLUMNS = ("temperature", "top_p", "min_p", "uniform", "repetition", "frequency", "presence")


class SamplingRows:
    """Columns of `SampleInputs` by name, int32; `floats` gives those that are numbers. Entries of histories and
    biases name their row, and so does each mask."""

    def __init__(self, sent: dict[str, Tensor], drawn: Tensor | None) -> None:
        self._sent = sent
        self._drawn = drawn
        self.has_masks = len(sent["mask_rows"]) > 0
        self.has_history = len(sent["history_rows"]) > 0
        self.has_bias = len(sent["bias_rows"]) > 0

    def __getitem__(self, name: str) -> Tensor:
        return self._sent[name]

    def floats(self, name: str) -> Tensor:
        return self._sent[name].view(torch.float32)

    def drawn_tokens(self) -> Tensor | None:
        """[S]: each row's last token where its history lacks it, -1 elsewhere; None where none lacks any."""
        if self._drawn is None:
            return None
        rows_S = self._sent["drawn_rows"].long()
        return torch.where(rows_S >= 0, self._drawn[rows_S.clamp(min=0)].long(), -1)


def send_rows(inputs: SampleInputs, rows: slice, drawn: Tensor | None, upload: Upload) -> SamplingRows:
    """Of these rows, counted from the slice's first. `drawn`: what the last step drew, if a history lacks it."""
    arrays = {name: _bits(getattr(inputs, f"{name}_S")[rows]) for name in COLUMNS}
    arrays["top_k"] = inputs.top_k_S[rows]
    for name, starts, values in (
        ("history", inputs.history_starts_S1, inputs.history_counts),
        ("bias", inputs.bias_starts_S1, _bits(inputs.bias_values)),
    ):
        bounds = starts[rows.start : rows.stop + 1]
        span = slice(int(bounds[0]), int(bounds[-1]))
        arrays[f"{name}_rows"] = np.repeat(np.arange(len(bounds) - 1, dtype=np.int32), np.diff(bounds))
        arrays[f"{name}_tokens"] = getattr(inputs, f"{name}_tokens")[span]
        arrays["history_counts" if name == "history" else "bias_values"] = values[span]
    index_S = inputs.mask_index_S[rows]
    masked_R = np.flatnonzero(index_S >= 0)
    arrays["mask_rows"] = masked_R.astype(np.int32)
    arrays["mask_words"] = inputs.mask_RW[index_S[masked_R]].view(np.int32)  # only what these rows need travels
    if drawn is not None and inputs.drawn_rows_S is not None:
        arrays["drawn_rows"] = inputs.drawn_rows_S[rows]
    else:
        drawn = None
    return SamplingRows(upload.send(arrays), drawn)


def _bits(values: Float32Array) -> Int32Array:
    return np.ascontiguousarray(values, np.float32).view(np.int32)
