"""What heads learn from: token sequences and the frozen model's hidden states, kept in files so that a run resumes.

Shape letters: S sequences of a file, L tokens of a sequence, P positions whose hidden state is kept, D hidden, I
inputs of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM
from vivace.formats.dequantize import dequantize
from vivace.formats.quantize_rtn import encode
from vivace.formats.safetensors import SafetensorsFile
from vivace.formats.safetensors_writer import write_safetensors
from vivace.formats.tensor import StoredTensor
from vivace.medusa.excerpts import Excerpts
from vivace.medusa.options import MedusaOptions
from vivace.models.decoder import build_decoder
from vivace.ops.backend import KVSpec, StepInputs, StepLimits

SEQUENCES_OF_FILE = 32  # generated together, and lost together by a kill
Progress = Callable[[int, int], None]


class HiddenStates:
    """The frozen model up to its final norm, one sequence at a time, on the engine's own packed weights."""

    def __init__(self, llm: LLM, max_len: int) -> None:
        loaded = llm.loaded
        spec, kv = loaded.spec, loaded.kv_spec
        num_blocks = -(-max_len // kv.block_size)
        kv_spec = KVSpec(spec.num_layers, spec.num_kv_heads, spec.head_dim, kv.block_size, kv.dtype)
        program = build_decoder(spec, loaded.parameters, llm.engine.config.max_model_len, output="hidden")
        cache = loaded.backend.kv_cache(kv_spec, num_blocks)
        self._executable = loaded.backend.compile(program, cache, StepLimits(max_len, max_len))
        self._blocks = np.arange(num_blocks, dtype=np.int32)[None]

    def of(self, tokens: list[int]) -> NDArray[np.float32]:
        """[L, D] of one sequence."""
        positions = np.arange(len(tokens), dtype=np.int32)
        inputs = StepInputs(
            token_ids_T=np.array(tokens, np.int32),
            positions_T=positions,
            slots_T=positions.copy(),  # block b is block b
            query_starts_B1=np.array([0, len(tokens)], np.int32),
            context_lens_B=np.array([len(tokens)], np.int32),
            block_tables_BX=self._blocks,
            sampled_rows_S=positions.copy(),
        )
        return np.array(self._executable.run(inputs), np.float32)


class ExampleMaker:
    """Makes the files of a run, those that are missing."""

    def __init__(self, llm: LLM, excerpts: Excerpts, options: MedusaOptions, directory: Path) -> None:
        self.llm, self.excerpts, self.options, self.directory = llm, excerpts, options, directory
        self._hidden = HiddenStates(llm, options.sequence_len)

    def make(self, progress: Progress | None = None) -> list[Path]:
        """All files, in order; `progress(done, total)` counts sequences."""
        total, paths = self.options.num_sequences, []
        for start in range(0, total, SEQUENCES_OF_FILE):
            stop = min(start + SEQUENCES_OF_FILE, total)
            path = self.directory / f"examples-{start // SEQUENCES_OF_FILE:05}.safetensors"
            if not path.exists():
                self._write(path, range(start, stop))
            paths.append(path)
            if progress is not None:
                progress(stop, total)
        return paths

    def _write(self, path: Path, indices: range) -> None:
        sequences = self._sequences(indices)
        first = first_position(self.options)
        hidden_SPD = np.stack([self._hidden.of(tokens)[first:] for tokens in sequences])
        tensors = {
            "tokens": encode(np.array(sequences, np.float32), "f32"),  # ids are below 2^21: exact
            "hidden": encode(hidden_SPD.reshape(-1, hidden_SPD.shape[2]), "bf16"),
        }
        write_safetensors(path, tensors)

    def _sequences(self, indices: range) -> list[list[int]]:
        options = self.options
        if not options.self_distill:
            return [self.excerpts.tokens(index, options.sequence_len) for index in indices]
        prompts = [self.excerpts.tokens(index, options.prompt_len) for index in indices]
        params = [
            SamplingParams(
                max_tokens=options.sequence_len - options.prompt_len,
                temperature=options.temperatures[index % len(options.temperatures)],
                ignore_eos=True,
                seed=options.seed + index,
            )
            for index in indices
        ]
        outputs = self.llm.generate(prompts, params)
        return [[*prompt, *output.outputs[0].token_ids] for prompt, output in zip(prompts, outputs, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Positions: hidden states (bfloat16 bytes), the token behind each, and those that each head must guess.

    `token_table_VD`: what heads see of a token, None for heads that see states alone.
    """

    hidden: StoredTensor  # [N, D]
    tokens_N: NDArray[np.int32]
    labels_NK: NDArray[np.int32]
    token_table_VD: NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.labels_NK)

    @property
    def num_inputs(self) -> int:
        return self.hidden.shape[1] * (1 if self.token_table_VD is None else 2)

    def inputs(self, indices: NDArray[np.intp] | slice) -> NDArray[np.float32]:
        """[B, I]"""
        hidden_BD = dequantize(self.hidden.select_rows(indices))
        if self.token_table_VD is None:
            return hidden_BD
        return np.concatenate([hidden_BD, self.token_table_VD[self.tokens_N[indices]]], axis=1)


def first_position(options: MedusaOptions) -> int:
    """The first position that heads learn from: generated text begins behind the prompt."""
    return options.prompt_len - 1 if options.self_distill else 0


def read_examples(
    paths: list[Path], options: MedusaOptions, token_table_VD: NDArray[np.float32] | None
) -> tuple[Examples, Examples]:
    """Those to train on, and those to measure on: a tenth of the sequences, the last ones, at least one."""
    first, num_heads = first_position(options), options.num_heads
    num_positions = options.sequence_len - first
    tokens, hidden = [], []
    for path in paths:
        tensors = SafetensorsFile.open(path).tensors
        tokens.append(dequantize(tensors["tokens"]).astype(np.int32))
        hidden.append(tensors["hidden"].data)
    tokens_SL, data = np.concatenate(tokens), np.concatenate(hidden)
    usable = num_positions - 1 - num_heads  # the last positions have no tokens to guess
    positions = np.arange(usable)
    ahead = first + positions[:, None] + 2 + np.arange(num_heads)  # head k guesses the token k + 2 places on
    num_held = max(1, len(tokens_SL) // 10)
    split = len(tokens_SL) - num_held

    def part(sequences: NDArray[np.intp]) -> Examples:
        rows = (sequences[:, None] * num_positions + positions).reshape(-1)
        chosen = StoredTensor("hidden", "bf16", (len(rows), data.shape[1] // 2), data[rows])
        own = tokens_SL[sequences]
        behind = own[:, first + 1 + positions].reshape(-1)
        return Examples(chosen, behind, own[:, ahead].reshape(-1, num_heads), token_table_VD)

    return part(np.arange(split)), part(np.arange(split, len(tokens_SL)))
