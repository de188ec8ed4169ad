"""The Medusa heads that were asked for, checked against the model and ready to guess."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

from vivace.core.config import EngineConfig, ResolvedConfig
from vivace.core.errors import ConfigError
from vivace.core.speculation import SpeculativeConfig
from vivace.models.medusa import MedusaHeads, TreePath, read_medusa
from vivace.models.medusa_program import HeadParameters, build_heads, pack_heads
from vivace.models.parameters import Parameters
from vivace.models.spec import ModelSpec
from vivace.ops.backend import Backend, KVCache, KVSpec, StepLimits
from vivace.ops.program import Program
from vivace.resources import EMBEDDED_MEDUSA, resource
from vivace.speculate.medusa import MedusaProposer, expected_chances
from vivace.speculate.rule import LengthRule
from vivace.speculate.speculation import Speculation
from vivace.speculate.tree_acceptance import TreeAcceptance


@dataclass(frozen=True, slots=True)
class LoadedHeads:
    """Heads of the model that serves."""

    heads: MedusaHeads
    parameters: HeadParameters


def load_heads(config: EngineConfig, spec: ModelSpec, backend: Backend) -> LoadedHeads | None:
    """The heads of `config`, None where none are asked for. Raises `ConfigError` if they do not go with the model,
    `ModelFileError` for broken files."""
    wanted = config.speculative_config
    if wanted is None or wanted.method != "medusa":
        return None
    named = wanted.model if wanted.model is not None else EMBEDDED_MEDUSA
    heads = read_medusa(resource(named).path if named == EMBEDDED_MEDUSA else named)
    return LoadedHeads(heads, pack_heads(heads, spec, backend))


def medusa_speculation(
    loaded: LoadedHeads,
    wanted: SpeculativeConfig,
    config: ResolvedConfig,
    spec: ModelSpec,
    parameters: Parameters,
    backend: Backend,
    kv_cache: KVCache,
) -> Speculation:
    """What guesses for the engine; `kv_cache` is the engine's own."""
    heads = loaded.heads
    paths = heads.tree[: wanted.num_speculative_tokens]
    num_heads = _depth(paths)
    steps = [heads_step(loaded, config, spec, parameters, count) for count in range(1, num_heads + 1)]
    no_context = backend.kv_cache(steps[0][1], 1)
    executables = [backend.compile(program, no_context, limits) for program, _, limits in steps]
    acceptance = TreeAcceptance(expected_chances(_accuracy(heads), paths))
    proposer = MedusaProposer(backend, executables, kv_cache, paths, acceptance, block_size=config.block_size)
    rule = LengthRule(len(paths), adaptive=wanted.adaptive, sequential=False)
    rule.acceptance = acceptance
    return Speculation(proposer, rule)


def num_heads_of(loaded: LoadedHeads, config: EngineConfig) -> int:
    """Heads that guess when as many tokens are guessed as may be."""
    wanted = config.speculative_config
    return _depth(loaded.heads.tree[: None if wanted is None else wanted.num_speculative_tokens])


def heads_step(
    loaded: LoadedHeads, sizes: ResolvedConfig, spec: ModelSpec, parameters: Parameters, num_heads: int
) -> tuple[Program, KVSpec, StepLimits]:
    """The program of the first heads, the cache that it does not read, and its largest step."""
    program = build_heads(spec, parameters, loaded.parameters, num_heads)
    no_context = KVSpec(1, 1, spec.head_dim, sizes.block_size, "f32")
    return program, no_context, StepLimits(sizes.max_num_seqs, sizes.max_num_seqs * num_heads)


def _depth(paths: Items[TreePath]) -> int:
    return max(len(path) for path in paths)


def _accuracy(heads: MedusaHeads) -> list[list[float]]:
    """How often each head's guess of each rank was right in training, as the manifest has it."""
    rows = heads.facts.get("accuracy")
    deepest = max(max(path) for path in heads.tree)
    if not isinstance(rows, list) or len(rows) < heads.num_heads:
        raise ConfigError("medusa.json lacks `accuracy`, a row for each head: train the heads again")
    for row in rows:
        if not isinstance(row, list) or len(row) <= deepest or not all(_is_share(value) for value in row):
            raise ConfigError(f"`accuracy` in medusa.json must have {deepest + 1} numbers from 0 to 1 for each head")
    return rows


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
