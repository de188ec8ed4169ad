"""The Medusa heads that were asked for, checked against the model and ready to guess."""

from __future__ import annotations

from dataclasses import dataclass

from vivace.core.config import EngineConfig, ResolvedConfig
from vivace.core.errors import ConfigError
from vivace.core.speculation import SpeculativeConfig
from vivace.models.medusa import MedusaHeads, read_medusa
from vivace.models.medusa_program import HeadParameters, build_heads, pack_heads
from vivace.models.parameters import Parameters
from vivace.models.spec import ModelSpec
from vivace.ops.backend import Backend, KVCache, KVSpec, StepLimits
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
    num_heads = max(len(path) for path in paths)
    no_context = backend.kv_cache(KVSpec(1, 1, spec.head_dim, config.block_size, "f32"), 1)
    executables = [
        backend.compile(
            build_heads(spec, parameters, loaded.parameters, count),
            no_context,
            StepLimits(config.max_num_seqs, config.max_num_seqs * count),
        )
        for count in range(1, num_heads + 1)
    ]
    acceptance = TreeAcceptance(expected_chances(_accuracy(heads), paths))
    proposer = MedusaProposer(backend, executables, kv_cache, paths, acceptance, block_size=config.block_size)
    rule = LengthRule(len(paths), adaptive=wanted.adaptive, sequential=False)
    rule.acceptance = acceptance
    return Speculation(proposer, rule)


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
