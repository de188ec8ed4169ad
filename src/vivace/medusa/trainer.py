"""Steps of a training of Medusa heads. Positions are drawn by seed and step alone: a resumed run draws the same."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vivace.core.errors import ModelFileError
from vivace.formats.dequantize import dequantize
from vivace.formats.safetensors import SafetensorsFile
from vivace.formats.safetensors_writer import write_safetensors
from vivace.medusa.examples import Examples
from vivace.medusa.heads import Adam, Float, FrozenHead, head_gradient
from vivace.medusa.options import MedusaOptions

SAVE_EVERY_S = 20.0
WARMUP_STEPS = 20


class HeadTrainer:
    """The heads of a run with Adam's moments; saved every SAVE_EVERY_S, and gone on with from the file `state`."""

    def __init__(self, examples: Examples, frozen: FrozenHead, options: MedusaOptions, state: Path) -> None:
        self.examples, self.frozen, self.options, self.state = examples, frozen, options, state
        width, num_inputs = frozen.table_VD.shape[1], examples.num_inputs
        shapes = [shape for _ in range(options.num_heads) for shape in ((width, num_inputs), (width,))]
        self.parameters = [np.zeros(shape, np.float32) for shape in shapes]  # a head of zeros guesses as the model
        self.adam = Adam([(np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for shape in shapes])
        self.step, self.loss = 0, math.nan
        if state.exists():
            self._load()

    def run(self, progress: Callable[[int, int], None] | None) -> None:
        saved = time.monotonic()
        while self.step < self.options.steps:
            self._take_step()
            if time.monotonic() - saved > SAVE_EVERY_S:
                self._save()
                saved = time.monotonic()
            if progress is not None:
                progress(self.step, self.options.steps)
        self._save()

    def stacked(self) -> tuple[Float, Float]:
        return np.stack(self.parameters[::2]), np.stack(self.parameters[1::2])

    def _take_step(self) -> None:
        options = self.options
        rng = np.random.default_rng([options.seed, 1, self.step])
        chosen = rng.integers(0, len(self.examples), options.batch)
        inputs_BI, labels_BK = self.examples.inputs(chosen), self.examples.labels_NK[chosen]
        gradients, losses = [], []
        for head in range(options.num_heads):
            weight, bias = self.parameters[2 * head : 2 * head + 2]
            loss, d_weight, d_bias = head_gradient(inputs_BI, weight, bias, labels_BK[:, head], self.frozen)
            gradients += [d_weight, d_bias]
            losses.append(loss)
        self.step += 1
        self.adam.step(self.parameters, gradients, self._learning_rate(), self.step)
        mean = sum(losses) / len(losses)
        self.loss = mean if self.step == 1 else 0.95 * self.loss + 0.05 * mean

    def _learning_rate(self) -> float:
        warm = min(1.0, self.step / WARMUP_STEPS)
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / (self.options.steps + 1)))
        return self.options.peak_learning_rate(self.frozen.table_VD.shape[1]) * warm * cosine

    def _save(self) -> None:
        tensors = {f"parameter.{index}": value for index, value in enumerate(self.parameters)}
        for index, (first, second) in enumerate(self.adam.moments):
            tensors |= {f"first.{index}": first, f"second.{index}": second}
        write_safetensors(self.state, tensors, {"step": str(self.step), "loss": self.loss.hex()})

    def _load(self) -> None:
        file = SafetensorsFile.open(self.state)
        try:
            for index, value in enumerate(self.parameters):
                first, second = self.adam.moments[index]
                for kind, target in (("parameter", value), ("first", first), ("second", second)):
                    target[...] = dequantize(file.tensors[f"{kind}.{index}"])
            self.step, self.loss = int(file.metadata["step"]), float.fromhex(file.metadata["loss"])
        except (KeyError, ValueError) as error:
            raise ModelFileError(
                self.state, f"no state of this training ({error}): delete it to start over"
            ) from None
