"""One layer over all calibration windows, stage by stage, with every activation in mapped scratch files.

What is in memory at a time is one matrix and the activations of a few windows. Each product and each attention is
computed once: a stage's outputs are written down before the next stage is looked at, which is what lets GPTQ see
the inputs that already quantised matrices make (true-sequential).
Shape letters: T tokens (S windows of L), D hidden, N outputs, K inputs, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import ConfigError
from vivace.models.spec import ModelSpec
from vivace.quantize.decoder_layer import STAGE_OF, STAGES, DecoderLayer, Floats, StageName

LARGEST_ACTIVATION = 1e15  # sums of squares of some thousands stay in the reach of float32
TOKENS_AT_ONCE = 1024  # of a chunk: enough rows for a product's full speed, 8 MiB of them at 2048 columns


Observer = Callable[[StageName], None]


class Scratch:
    """Mapped float32 matrices [T, width] for one layer's activations; the files go with `close`."""

    def __init__(self, directory: Path, spec: ModelSpec, num_windows: int, window_len: int) -> None:
        self.num_windows, self.window_len = num_windows, window_len
        widths = {
            "qkv": spec.query_size + 2 * spec.kv_size,
            "heads": spec.query_size,
            "attended": spec.hidden_size,
            "gate_up": 2 * spec.intermediate_size,
        }
        self.paths = {name: directory / f"scratch-{name}.f32" for name in widths}
        self.arrays = {
            name: np.memmap(self.paths[name], np.float32, "w+", shape=(num_windows * window_len, width))
            for name, width in widths.items()
        }

    def chunks(self) -> Iterator[slice]:
        """Runs of tokens: whole windows, about TOKENS_AT_ONCE at a time."""
        step = self.window_len * max(1, TOKENS_AT_ONCE // self.window_len)
        total = self.num_windows * self.window_len
        return (slice(start, min(start + step, total)) for start in range(0, total, step))

    def close(self) -> None:
        self.arrays.clear()
        for path in self.paths.values():
            path.unlink(missing_ok=True)


class LayerPass:
    """From `hidden_TD` to `output_TD`: for each stage in turn read `inputs`, `apply` its matrices, `complete` it.

    Both may be the same array: the input is last read before the last stage writes.
    """

    def __init__(self, layer: DecoderLayer, hidden_TD: Floats, output_TD: Floats, scratch: Scratch) -> None:
        self.layer, self.hidden_TD, self.output_TD, self.scratch = layer, hidden_TD, output_TD, scratch

    def inputs(self, stage: StageName) -> Iterator[tuple[slice, Floats]]:
        """What the stage's matrices multiply, chunk by chunk: (tokens, [T of the chunk, K]).

        Raises ConfigError for NaN, infinity and numbers whose squares would soon be that.
        """
        for tokens in self.scratch.chunks():
            inputs_TK = self._inputs(stage, tokens)
            if not np.abs(inputs_TK).max() < LARGEST_ACTIVATION:
                raise ConfigError(
                    f"layer {self.layer.index} computes NaN or infinity on the calibration text: the weights are "
                    "broken, or made for another tokenizer"
                )
            yield tokens, inputs_TK

    def _inputs(self, stage: StageName, tokens: slice) -> Floats:
        arrays, layer = self.scratch.arrays, self.layer
        match stage:
            case "qkv":
                return layer.normed("attention_norm", np.asarray(self.hidden_TD[tokens]))
            case "o":
                return np.asarray(arrays["heads"][tokens])
            case "gate_up":
                return layer.normed("feed_forward_norm", np.asarray(arrays["attended"][tokens]))
            case "down":
                return layer.activated(np.asarray(arrays["gate_up"][tokens]))

    def apply(self, matrix: str, rows: slice, weights_NK: Floats) -> None:
        """Computes the outputs of some rows of a matrix for all tokens."""
        output, first = self._outputs(matrix)
        columns = slice(first + rows.start, first + rows.stop)
        bias = self.layer.bias(matrix)
        for tokens, inputs_TK in self.inputs(STAGE_OF[matrix]):
            outputs_TN = inputs_TK @ weights_NK.T
            output[tokens, columns] = outputs_TN if bias is None else outputs_TN + bias[rows]

    def complete(self, stage: StageName) -> None:
        """What follows the stage's products, once all of them are there."""
        arrays, layer, length = self.scratch.arrays, self.layer, self.scratch.window_len
        if stage == "gate_up":  # activated as the last stage reads it
            return
        for tokens in self.scratch.chunks():
            if stage == "qkv":
                for start in range(tokens.start, tokens.stop, length):
                    window = slice(start, start + length)
                    arrays["heads"][window] = layer.attend(np.asarray(arrays["qkv"][window]))
                continue
            before = self.hidden_TD if stage == "o" else arrays["attended"]
            after = arrays["attended"] if stage == "o" else self.output_TD  # the products, then the sum
            norm = "post_attention_norm" if stage == "o" else "post_feed_forward_norm"
            after[tokens] = layer.added(np.asarray(before[tokens]), np.asarray(after[tokens]), norm)

    def run(
        self,
        weights: Callable[[str, slice], Floats],
        blocks: Callable[[str], list[slice]],
        seen: Observer | None = None,
    ) -> None:
        """All stages with given matrices, block by block; `seen` is called with each stage before its products."""
        for stage, matrices in STAGES.items():
            if seen is not None:
                seen(stage)
            for matrix in matrices:
                for rows in blocks(matrix):
                    self.apply(matrix, rows, weights(matrix, rows))
            self.complete(stage)

    def _outputs(self, matrix: str) -> tuple[NDArray[np.float32], int]:
        """Where a matrix writes, and its first column there."""
        spec, arrays = self.layer.spec, self.scratch.arrays
        places = {
            "q": (arrays["qkv"], 0),
            "k": (arrays["qkv"], spec.query_size),
            "v": (arrays["qkv"], spec.query_size + spec.kv_size),
            "o": (arrays["attended"], 0),
            "gate": (arrays["gate_up"], 0),
            "up": (arrays["gate_up"], spec.intermediate_size),
            "down": (self.output_TD, 0),
        }
        return places[matrix]
