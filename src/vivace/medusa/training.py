"""A training of Medusa heads, from a model and texts to files; killed at any moment it goes on, to the same bytes.

In the output folder: `run.json` (what was asked), `examples-*.safetensors`, `state.safetensors` while it trains;
`medusa.safetensors` and then `medusa.json` when it is done, and the others go.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core.errors import ConfigError, ModelFileError
from vivace.engine.llm import LLM
from vivace.engine.source import locate
from vivace.formats.atomic_file import atomic_writer
from vivace.formats.checkpoint import open_checkpoint
from vivace.formats.dequantize import dequantize
from vivace.formats.fingerprint import checkpoint_fingerprint
from vivace.formats.safetensors import SafetensorsFile
from vivace.formats.safetensors_writer import write_safetensors
from vivace.medusa.examples import ExampleMaker, Examples, read_examples
from vivace.medusa.excerpts import Excerpts
from vivace.medusa.heads import Adam, Float, FrozenHead, head_gradient, head_output, label_ranks
from vivace.medusa.options import MedusaOptions
from vivace.medusa.tree import Tree, build_tree
from vivace.models.medusa import MANIFEST_NAME, MedusaHeads, write_medusa
from vivace.models.weight_names import weight_names

RUN_NAME, STATE_NAME = "run.json", "state.safetensors"
SAVE_EVERY_S = 20.0
WARMUP_STEPS = 20
RANKS = 10  # guesses of a head that are counted, and that the tree may use
TREE_SIZES = (1, 2, 4, 8, 16, 32, 63)

Progress = Callable[[str, int, int], None]  # (stage, done, total)


@dataclass(frozen=True, slots=True)
class MedusaReport:
    """On held-out positions: how often head k's guess of rank r is the token, and what the tree makes of it."""

    accuracy_KR: tuple[tuple[float, ...], ...]
    tree: Tree
    num_positions: int
    loss: float  # nats, mean over heads, over the last steps

    def top(self, head: int, k: int) -> float:
        """How often the true token is among head `head`'s first k guesses."""
        return sum(self.accuracy_KR[head][:k])

    def expected_tokens(self) -> dict[int, float]:
        """Tokens a step yields, by the number of guesses in the tree."""
        sizes = [size for size in TREE_SIZES if size < len(self.tree.paths)] + [len(self.tree.paths)]
        return {size: self.tree.expected_tokens(size) for size in sizes}


def train_medusa(
    llm: LLM,
    model: str | None,
    data: list[Path],
    output: Path,
    options: MedusaOptions,
    progress: Progress | None = None,
) -> MedusaReport:
    """Trains heads for `model`, which `llm` runs, and writes them to the folder `output`.

    Raises `ConfigError` for texts or options that cannot work, and where `output` holds something else.
    """
    if options.sequence_len > llm.engine.config.max_model_len:
        raise ConfigError(
            f"sequence_len {options.sequence_len} exceeds the context of {llm.engine.config.max_model_len}"
        )
    excerpts = Excerpts(data, llm.tokenizer, options.seed)
    frozen, fingerprint = _frozen_head(llm, model)
    asked = {"options": asdict(options), "model": fingerprint, "data": {str(p): p.stat().st_size for p in data}}
    excerpts.tokens(0, options.prompt_len)  # texts that cannot serve leave no folder behind
    _claim(output, asked)
    maker = ExampleMaker(llm, excerpts, options, output)
    paths = maker.make(None if progress is None else lambda done, total: progress("examples", done, total))
    training, heldout = read_examples(paths, options)
    trainer = _Trainer(training, frozen, options, output / STATE_NAME)
    trainer.run(None if progress is None else lambda done, total: progress("steps", done, total))
    report = _measure(trainer, heldout)
    names = sorted(path.name for path in data)
    heads = MedusaHeads(
        *trainer.stacked(), report.tree.paths, fingerprint, llm.loaded.spec.vocab_size, _facts(report, options, names)
    )
    write_medusa(output, heads)
    for path in (*paths, output / STATE_NAME, output / RUN_NAME):
        path.unlink(missing_ok=True)
    return report


def _frozen_head(llm: LLM, model: str | None) -> tuple[FrozenHead, str]:
    """The lm_head as numbers, whatever it is stored or packed as, and the checkpoint's fingerprint."""
    spec = llm.loaded.spec
    with open_checkpoint(locate(model).path) as checkpoint:
        parameter = "token_embedding" if spec.tied_embeddings else "lm_head"
        source = weight_names(spec, frozenset(checkpoint.names())).model(parameter)
        table_VD = dequantize(checkpoint.tensor(source.name))
        return FrozenHead(table_VD, spec.final_softcap), checkpoint_fingerprint(checkpoint)


def _claim(output: Path, asked: dict[str, Any]) -> None:
    """Makes the folder, or finds a run of the very same options in it to go on with."""
    output.mkdir(parents=True, exist_ok=True)
    run = output / RUN_NAME
    text = json.dumps(asked, sort_keys=True, indent=1) + "\n"
    if run.exists():
        if run.read_text() != text:
            raise ConfigError(
                f"{output} holds an unfinished training of other options, texts or model (see {run}): "
                "delete it or name another folder"
            )
        return
    if (output / MANIFEST_NAME).exists() or any(output.iterdir()):
        raise ConfigError(f"{output} is not empty: name a new folder")
    with atomic_writer(run) as file:
        file.write(text.encode())


class _Trainer:
    def __init__(self, examples: Examples, frozen: FrozenHead, options: MedusaOptions, state: Path) -> None:
        self.examples, self.frozen, self.options, self.state = examples, frozen, options, state
        width = frozen.table_VD.shape[1]
        shapes = [shape for _ in range(options.num_heads) for shape in ((width, width), (width,))]
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
        """One step on positions drawn by seed and step alone, so that a resumed run draws the same."""
        options = self.options
        rng = np.random.default_rng([options.seed, 1, self.step])
        chosen = rng.integers(0, len(self.examples), options.batch)
        x_BD, labels_BK = self.examples.hidden_states(chosen), self.examples.labels_NK[chosen]
        gradients, losses = [], []
        for head in range(options.num_heads):
            weight, bias = self.parameters[2 * head : 2 * head + 2]
            loss, d_weight, d_bias = head_gradient(x_BD, weight, bias, labels_BK[:, head], self.frozen)
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


def _measure(trainer: _Trainer, heldout: Examples) -> MedusaReport:
    x_ND = heldout.hidden_states(slice(None))
    accuracy = []
    for head in range(trainer.options.num_heads):
        weight, bias = trainer.parameters[2 * head : 2 * head + 2]
        output_ND, _ = head_output(x_ND, weight, bias)
        ranks = label_ranks(output_ND, heldout.labels_NK[:, head], trainer.frozen)
        accuracy.append(tuple(float(np.mean(ranks == rank)) for rank in range(RANKS)))
    tree = build_tree(accuracy, trainer.options.tree_size)
    return MedusaReport(tuple(accuracy), tree, len(heldout), trainer.loss)


def _facts(report: MedusaReport, options: MedusaOptions, data: list[str]) -> dict[str, Any]:
    return {
        "accuracy": [[round(value, 6) for value in row] for row in report.accuracy_KR],
        "expected_tokens": {str(size): round(value, 4) for size, value in report.expected_tokens().items()},
        "training": {"data": data, "heldout_positions": report.num_positions, "loss": report.loss, **asdict(options)},
    }
