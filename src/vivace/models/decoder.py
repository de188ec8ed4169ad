"""The one decoder: records a model's step for a backend to compile."""

from __future__ import annotations

from typing import Literal

from vivace.core.errors import ConfigError
from vivace.models.parameters import LayerParameters, Parameters, RopeFrequencies
from vivace.models.rope import RopeSpec
from vivace.models.spec import ModelSpec
from vivace.ops.program import Program, Value

Output = Literal["logits", "hidden"]


def build_decoder(
    spec: ModelSpec,
    parameters: Parameters,
    max_model_len: int,
    *,
    output: Output = "logits",
    names_states: bool = False,
) -> Program:
    """Records the step: token ids to the logits [S, V] of the sampled rows.

    With `output="hidden"` it ends with the final norm, before the lm_head: hidden states [S, D] of the sampled rows.
    With `names_states` they are the program's states, beside the logits.
    `max_model_len` is the longest context that the engine will run, in tokens; it decides between LongRoPE's two
    sets of factors, once. Raises ConfigError if the model was not made for so long a context.
    """
    if not 1 <= max_model_len <= spec.max_position_embeddings:
        limit = spec.max_position_embeddings
        raise ConfigError(f"max_model_len must be from 1 to the model's {limit} positions, got {max_model_len}")
    recorder = _Recorder(spec, parameters, max_model_len)
    hidden = recorder.hidden()
    recorder.program.output = hidden if output == "hidden" else recorder.logits(hidden)
    recorder.program.states = hidden if names_states else None
    return recorder.program


class _Recorder:
    def __init__(self, spec: ModelSpec, parameters: Parameters, max_model_len: int) -> None:
        self.spec = spec
        self.parameters = parameters
        self.max_model_len = max_model_len
        self.program = Program()
        self.rope_tables: dict[RopeSpec, Value] = {}

    def hidden(self) -> Value:
        """[S, D]: the sampled rows after the final norm."""
        spec, program, parameters = self.spec, self.program, self.parameters
        x = program.embedding(parameters.token_embedding, spec.embedding_scale)
        for index, layer in enumerate(parameters.layers):
            x = self._layer(index, layer, x)
        x = program.gather_rows(x)
        return program.rms_norm(x, parameters.final_norm, spec.norm_eps)

    def logits(self, hidden: Value) -> Value:
        """[S, V]."""
        logits = self.program.linear(hidden, (self.parameters.lm_head,))
        cap = self.spec.final_softcap
        return logits if cap is None else self.program.softcap(logits, cap)

    def _layer(self, index: int, layer: LayerParameters, x: Value) -> Value:
        program, eps = self.program, self.spec.norm_eps
        attended = self._attention(index, layer, program.rms_norm(x, layer.attention_norm, eps))
        if layer.post_attention_norm is not None:
            attended = program.rms_norm(attended, layer.post_attention_norm, eps)
        x = program.add(x, attended)
        fed_forward = self._feed_forward(layer, program.rms_norm(x, layer.feed_forward_norm, eps))
        if layer.post_feed_forward_norm is not None:
            fed_forward = program.rms_norm(fed_forward, layer.post_feed_forward_norm, eps)
        return program.add(x, fed_forward)

    def _attention(self, index: int, layer: LayerParameters, x: Value) -> Value:
        spec, program = self.spec, self.program
        qkv = program.linear(x, (layer.q, layer.k, layer.v), (layer.q_bias, layer.k_bias, layer.v_bias))
        keys_at, values_at = spec.query_size, spec.query_size + spec.kv_size
        q, k, v = qkv.columns(0, keys_at), qkv.columns(keys_at, values_at), qkv.columns(values_at, qkv.width)
        if layer.q_norm is not None and layer.k_norm is not None:
            q = program.rms_norm(q, layer.q_norm, spec.norm_eps, groups=spec.num_heads)
            k = program.rms_norm(k, layer.k_norm, spec.norm_eps, groups=spec.num_kv_heads)
        table = self._rope_table(spec.layer_rope(index))
        q, k = program.rope(q, table, spec.head_dim), program.rope(k, table, spec.head_dim)
        program.kv_write(k, v, index)
        heads = program.attention(
            q,
            index,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            scale=spec.attention_scale,
            window=spec.layer_windows[index],
            softcap=spec.attention_softcap,
        )
        return program.linear(heads, (layer.o,), (layer.o_bias,))

    def _feed_forward(self, layer: LayerParameters, x: Value) -> Value:
        program = self.program
        gate_up = program.linear(x, (layer.gate, layer.up), (layer.gate_bias, layer.up_bias))
        activated = program.gated_activation(gate_up, self.spec.activation)
        return program.linear(activated, (layer.down,), (layer.down_bias,))

    def _rope_table(self, rope: RopeSpec) -> Value:
        """Recorded before the first layer that reads it; the others share it."""
        if rope not in self.rope_tables:
            frequencies = self._frequencies(rope)
            inv_freq = frequencies.short
            if rope.is_long(self.max_model_len) and frequencies.long is not None:
                inv_freq = frequencies.long
            self.rope_tables[rope] = self.program.rope_table(inv_freq, rope.scale)
        return self.rope_tables[rope]

    def _frequencies(self, rope: RopeSpec) -> RopeFrequencies:
        sliding = self.parameters.sliding_rope
        return sliding if sliding is not None and rope is self.spec.sliding_rope else self.parameters.rope
