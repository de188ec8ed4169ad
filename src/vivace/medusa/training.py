"""A training of Medusa heads, from a model and texts to files; killed at any moment it goes on, to the same bytes.

In the output folder: `run.json` (what was asked), `examples-*.safetensors`, `state.safetensors` while it trains;
`medusa.safetensors` and then `medusa.json` when it is done, and the others go.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vivace.core.errors import ConfigError
from vivace.engine.llm import LLM
from vivace.engine.source import locate
from vivace.formats.atomic_file import atomic_writer
from vivace.formats.checkpoint import open_checkpoint
from vivace.formats.dequantize import dequantize
from vivace.formats.fingerprint import checkpoint_fingerprint
from vivace.medusa.examples import ExampleMaker, Examples, read_examples
from vivace.medusa.excerpts import Excerpts
from vivace.medusa.heads import Float, FrozenHead, head_output, label_ranks, token_inputs
from vivace.medusa.options import MedusaOptions
from vivace.medusa.trainer import HeadTrainer
from vivace.medusa.tree import Tree, build_tree
from vivace.models.medusa import MedusaHeads, write_medusa
from vivace.models.weight_names import weight_names

RUN_NAME, STATE_NAME = "run.json", "state.safetensors"
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
    frozen, embedding_VD, fingerprint = _frozen_head(llm, model)
    asked = {
        "options": asdict(options),
        "model": fingerprint,
        "packed_as": llm.loaded.parameters.layers[0].q.layout,
        "data": {str(path): path.stat().st_size for path in data},
    }
    excerpts.tokens(0, options.prompt_len)  # texts that cannot serve leave no folder behind
    _claim(output, asked)
    maker = ExampleMaker(llm, excerpts, options, output)
    paths = maker.make(None if progress is None else lambda done, total: progress("examples", done, total))
    token_table_VD = token_inputs(embedding_VD) if options.sees_token else None
    training, heldout = read_examples(paths, options, token_table_VD)
    trainer = HeadTrainer(training, frozen, options, output / STATE_NAME)
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


def _frozen_head(llm: LLM, model: str | None) -> tuple[FrozenHead, Float, str]:
    """The lm_head and the token embedding as numbers, whatever they are stored or packed as, and the checkpoint's
    fingerprint."""
    spec = llm.loaded.spec
    with open_checkpoint(locate(model).path) as checkpoint:
        names = weight_names(spec, frozenset(checkpoint.names()))
        embedding_VD = dequantize(checkpoint.tensor(names.model("token_embedding").name))
        head_VD = embedding_VD
        if not spec.tied_embeddings:
            head_VD = dequantize(checkpoint.tensor(names.model("lm_head").name))
        return FrozenHead(head_VD, spec.final_softcap), embedding_VD, checkpoint_fingerprint(checkpoint)


def _claim(output: Path, asked: dict[str, Any]) -> None:
    """Makes the folder, or finds a run of the very same options in it to go on with. Raises `ConfigError`."""
    text = json.dumps(asked, sort_keys=True, indent=1) + "\n"
    try:
        output.mkdir(parents=True, exist_ok=True)
        run = output / RUN_NAME
        if run.exists():
            _check_same(run, text)
        elif any(output.iterdir()):
            raise ConfigError(f"{output} is not empty: name a new folder")
        else:
            with atomic_writer(run) as file:
                file.write(text.encode())
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}; name another folder") from None


def _check_same(run: Path, text: str) -> None:
    if run.read_bytes() != text.encode():
        raise ConfigError(
            f"{run.parent} holds an unfinished training of other options, texts or model (see {run}): "
            "delete it or name another folder"
        )


def _measure(trainer: HeadTrainer, heldout: Examples) -> MedusaReport:
    inputs_NI = heldout.inputs(slice(None))
    accuracy = []
    for head in range(trainer.options.num_heads):
        weight, bias = trainer.parameters[2 * head : 2 * head + 2]
        output_ND, _ = head_output(inputs_NI, weight, bias)
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
