"""Rotary embedding from a config.json: `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters`
(transformers 5), flat or by kind of layer."""

from __future__ import annotations

from collections.abc import Callable

from vivace.models.config_fields import ConfigFields
from vivace.models.families import Family
from vivace.models.rope import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeScaling,
    RopeSpec,
    YarnScaling,
    default_longrope_attention_factor,
    default_yarn_attention_factor,
)
from vivace.models.spec import LIMITS

FULL, SLIDING = "full_attention", "sliding_attention"


def read_ropes(
    fields: ConfigFields, family: Family, head_dim: int, max_position_embeddings: int
) -> tuple[RopeSpec, RopeSpec | None]:
    """The rotary embedding of layers that see everything, and of those with a window where it differs."""
    reader = _RopeReader(fields, family, head_dim, max_position_embeddings)
    given = fields.section("rope_parameters")
    old = fields.section("rope_scaling")
    by_kind = given is not None and (FULL in given or SLIDING in given)
    full = given.section(FULL) if given is not None and by_kind else given if given is not None else old
    rope = reader.rope(full, fields.positive("rope_theta", family.rope_theta))
    if family.sliding_rope_theta is None:
        return rope, None
    sliding = given.section(SLIDING) if given is not None and by_kind else None
    theta = fields.positive("rope_local_base_freq", family.sliding_rope_theta)
    return rope, reader.rope(sliding, theta)


class _RopeReader:
    def __init__(self, fields: ConfigFields, family: Family, head_dim: int, max_position_embeddings: int) -> None:
        self.fields = fields
        self.family = family
        self.head_dim = head_dim
        self.max_position_embeddings = max_position_embeddings

    def rope(self, given: ConfigFields | None, theta: float) -> RopeSpec:
        given = ConfigFields({}, self.fields.path) if given is None else given
        partial = given if "partial_rotary_factor" in given else self.fields
        fraction = partial.positive("partial_rotary_factor", 1.0)
        if fraction > 1:
            raise partial.error("partial_rotary_factor", f"must be at most 1, got {fraction}")
        return RopeSpec(given.positive("rope_theta", theta), int(self.head_dim * fraction), self._scaling(given))

    def _scaling(self, given: ConfigFields) -> RopeScaling | None:
        kind = given.text("rope_type", given.text("type", "default"))
        if self.family.name == "phi3" and kind in ("su", "yarn"):
            kind = "longrope"  # the names that Phi-3's first files use for it
        readers: dict[str, Callable[[ConfigFields], RopeScaling | None]] = {
            "default": lambda _: None,
            # Dynamic NTK leaves frequencies alone up to max_position_embeddings, the longest context we run.
            "dynamic": lambda _: None,
            "linear": lambda given: LinearScaling(given.positive("factor")),
            "llama3": self._llama3,
            "yarn": self._yarn,
            "longrope": self._longrope,
        }
        if kind not in readers:
            raise given.error("rope_type", f"unknown {kind!r:.80}; known are {', '.join(readers)}")
        return readers[kind](given)

    def _llama3(self, given: ConfigFields) -> Llama3Scaling:
        low, high = given.positive("low_freq_factor"), given.positive("high_freq_factor")
        if high <= low:
            raise given.error("high_freq_factor", f"must be above low_freq_factor {low}, got {high}")
        return Llama3Scaling(given.positive("factor"), low, high, self._original(given))

    def _yarn(self, given: ConfigFields) -> YarnScaling:
        original = self._original(given)
        factor = given.positive("factor", self.max_position_embeddings / original)
        attention_factor = given.optional_positive("attention_factor")
        if attention_factor is None and "mscale" in given and "mscale_all_dim" in given:
            raise given.error("mscale", "DeepSeek's form of YaRN is not supported")
        return YarnScaling(
            factor,
            original,
            attention_factor or default_yarn_attention_factor(factor),
            given.positive("beta_fast", 32.0),
            given.positive("beta_slow", 1.0),
            given.flag("truncate", True),
        )

    def _longrope(self, given: ConfigFields) -> LongRopeScaling:
        original = self._original(given)
        factor = given.positive("factor", self.max_position_embeddings / original)
        attention_factor = given.optional_positive("attention_factor")
        return LongRopeScaling(
            given.numbers("short_factor"),
            given.numbers("long_factor"),
            original,
            attention_factor or default_longrope_attention_factor(factor, original),
        )

    def _original(self, given: ConfigFields) -> int:
        """The context of pretraining. Phi-3's files have it outside the rope object, and that one counts."""
        key, limit = "original_max_position_embeddings", LIMITS["max_position_embeddings"]
        default = 4_096 if self.family.name == "phi3" else self.max_position_embeddings
        value = self.fields.count(key, limit) if key in self.fields else given.count(key, limit, default)
        if value < 2:
            raise given.error(key, "must be at least 2")
        return value
