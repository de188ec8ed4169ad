"""Whatever a model file claims, the answer is a spec or a ModelFileError."""

from __future__ import annotations

from typing import Any

from fake_checkpoint import METADATA, FakeCheckpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from vivace.core.errors import ModelFileError
from vivace.models.gguf_config import spec_from_gguf
from vivace.models.hf_config import spec_from_hf_config
from vivace.models.presets import PRESETS
from vivace.models.rope import inverse_frequencies

LONG = {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1}
GEMMA3 = {
    "model_type": "gemma3_text",
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "sliding_window": 512,
    "layer_types": ["sliding_attention"] * 18,
    "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": {}},
}
CONFIGS = [
    *PRESETS.values(),
    PRESETS["phi-3-mini"] | {"rope_scaling": LONG, "original_max_position_embeddings": 4096},
    PRESETS["qwen3-0.6b"] | {"rope_scaling": YARN, "use_sliding_window": True, "sliding_window": 8},
    GEMMA3,
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 2, 3, 2**31, 2**63, 10**400, -1])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["linear", "llama3", "yarn", "longrope", "dynamic", "gemma2", "gelu"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


def mutated(draw: st.DrawFn, values: dict[str, Any]) -> dict[str, Any]:
    """One or two keys changed or removed, inside nested objects too."""
    values = dict(values)
    for _ in range(draw(st.integers(1, 2))):
        key = draw(st.sampled_from(sorted(values)))
        if isinstance(values[key], dict) and values[key] and draw(st.booleans()):
            values[key] = mutated(draw, values[key])
        elif draw(st.integers(0, 4)) == 0:
            del values[key]
        else:
            values[key] = draw(VALUES)
        if not values:
            break
    return values


@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_mutated_configs(data: st.DataObject) -> None:
    config = mutated(data.draw, data.draw(st.sampled_from(CONFIGS)))
    try:
        spec = spec_from_hf_config(config)
    except ModelFileError:
        return
    assert len(inverse_frequencies(spec.rope)) * 2 == spec.rope.rotary_dim


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_mutated_metadata(data: st.DataObject) -> None:
    extra = {"llama.rope.freq_base": 1e4, "llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0}
    checkpoint = FakeCheckpoint(mutated(data.draw, METADATA | extra), [])
    try:
        spec_from_gguf(checkpoint)
    except ModelFileError:
        return
    raise AssertionError("a file without tensors is no model")
