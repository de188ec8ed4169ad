"""Seconds of a step: a roofline for every product and for attention, and what a step costs beside them.

Products read their weights once a step, whatever the rows; attention reads the keys and values of each sequence.
Everything else (norms, rotary embedding, activations, additions) is rows of float32 that stay near the core.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from vivace.models.spec import ModelSpec
from vivace.ops.backend import KVSpec
from vivace.plan.deployment import Deployment
from vivace.plan.machine import Machine, RateCurve
from vivace.plan.memory import kv_spec
from vivace.plan.weights import Product, StoredEncodings, WeightPlan, weight_plan

# models/decoder.py: operations of a layer and outside of them; products are counted apart.
LAYER_OPS, OUTER_OPS, LAYER_PRODUCTS = 9, 4, 4
FLOAT_BYTES = 4
ATTENTION_UNITS = {"f32": "f32", "f16": "f16"}  # of a cache type; coded ones are unpacked to bf16
# Of the last-level cache, what a walk over more than it holds still finds there from the last time: measured, 67 MB
# beside a cache of 32 MB are read 1.4 times as fast as memory, 126 MB 1.1 times, 236 MB as fast.
KEPT = 0.5


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one step. `bandwidth_s` and `arithmetic_s` are what each alone asks for: they overlap, so that
    `total_s` is less than their sum with `overhead_s`."""

    total_s: float
    bandwidth_s: float
    arithmetic_s: float
    overhead_s: float

    def delayed(self, seconds: float) -> StepTime:
        """The same, longer by what is neither reading nor computing."""
        return replace(self, total_s=self.total_s + seconds, overhead_s=self.overhead_s + seconds)

    def followed_by(self, other: StepTime, times: float) -> StepTime:
        """Both, one after the other, the second so many times."""
        return StepTime(
            self.total_s + times * other.total_s,
            self.bandwidth_s + times * other.bandwidth_s,
            self.arithmetic_s + times * other.arithmetic_s,
            self.overhead_s + times * other.overhead_s,
        )


@dataclass(frozen=True, slots=True)
class _ProductTime:
    operations: float  # of one row
    memory_s: float
    curve: RateCurve
    is_head: bool


class StepModel:
    """Predicts steps of one model in one deployment on one machine. A call takes a few microseconds."""

    def __init__(
        self, spec: ModelSpec, weights: WeightPlan, kv: KVSpec, machine: Machine, num_threads: int | None = None
    ) -> None:
        efficiency = machine.efficiency
        compute, bandwidth = machine.with_threads(num_threads)
        read = machine.read_bytes_per_s * bandwidth
        self._product_bytes = weights.product_bytes
        self._kv_bytes = kv.bytes_per_token
        self._cache_bytes = machine.cache_bytes
        self._compute = compute
        self._power = efficiency.overlap
        self._products = tuple(
            _product_time(product, machine, read, spec.hidden_size) for product in weights.products
        )
        self._windows = tuple(Counter(spec.layer_windows).items())
        self._key_s = kv.bytes_per_token / kv.num_layers / (read * efficiency.kv_bandwidth)
        self._pair_operations = 4.0 * spec.query_size
        self._attention = _attention_curve(spec, kv, machine)
        self._extra_keys = efficiency.attention_keys
        num_ops = spec.num_layers * (LAYER_OPS + 2 * spec.qk_norm + 2 * spec.post_norms) + OUTER_OPS
        num_products = spec.num_layers * LAYER_PRODUCTS + 1
        self._fixed_s = efficiency.step_s + num_ops * efficiency.op_s + num_products * efficiency.product_op_s
        row_rate = efficiency.row_bytes_per_s or machine.read_bytes_per_s * efficiency.row_share
        self._row_s = row_floats(spec) * FLOAT_BYTES / (row_rate * compute)
        self._sequence_s = efficiency.sequence_s
        self._sampled_s = efficiency.logit_s * spec.vocab_size / compute
        self._request_s, self._prompt_token_s = efficiency.admission_s, efficiency.admission_token_s
        self.wake_s = efficiency.wake_s

    def seconds(
        self,
        num_decoding: float,
        context_len: float,
        rows_each: int = 1,
        chunk_len: float = 0,
        chunk_start: float = 0,
    ) -> float:
        """Of a step in which `num_decoding` sequences compute `rows_each` tokens each, behind `context_len` tokens on
        the average, and one prompt a chunk of `chunk_len` tokens behind `chunk_start`."""
        return self.step(num_decoding, context_len, rows_each, chunk_len, chunk_start).total_s

    def step(
        self,
        num_decoding: float,
        context_len: float,
        rows_each: float = 1,
        chunk_len: float = 0,
        chunk_start: float = 0,
    ) -> StepTime:
        """The same, with its parts."""
        chunks = ((chunk_start, chunk_len),) if chunk_len else ()
        return self.mixed(num_decoding, context_len, rows_each, chunks, len(chunks))

    def mixed(
        self,
        num_decoding: float,
        context_len: float,
        rows_each: float,
        chunks: Sequence[tuple[float, float]],
        num_drawn: int,
    ) -> StepTime:
        """With any number of prompts' chunks, each (start, length), of which `num_drawn` end their prompt."""
        num_sampled = num_decoding * rows_each + num_drawn
        rows = num_decoding * rows_each + sum(length for _, length in chunks)
        streamed = self._streamed(num_decoding * (context_len + rows_each) + sum(map(sum, chunks)))
        total = memory = arithmetic = 0.0
        for product in self._products:
            count = num_sampled if product.is_head else rows
            operations_s = product.operations * count / (product.curve.at(count) * self._compute)
            read_s = product.memory_s * streamed
            total += self._either(read_s, operations_s)
            memory += read_s
            arithmetic += operations_s
        for window, num_layers in self._windows:
            for pairs, keys, tokens in self._attended(window, num_decoding, context_len, rows_each, chunks):
                read_s = keys * self._key_s * num_layers * streamed
                operations_s = (
                    pairs * self._pair_operations * num_layers / (self._attention.at(tokens) * self._compute)
                )
                total += self._either(read_s, operations_s)
                memory += read_s
                arithmetic += operations_s
        num_sequences = num_decoding + len(chunks)
        overhead = (
            self._fixed_s + rows * self._row_s + num_sequences * self._sequence_s + num_sampled * self._sampled_s
        )
        return StepTime(total + overhead, memory, arithmetic, overhead)

    def admission_s(self, num_requests: int, num_tokens: int) -> float:
        """What so many new requests with so many prompt tokens altogether cost the engine beside their steps."""
        return num_requests * self._request_s + num_tokens * self._prompt_token_s

    def _streamed(self, num_keys: float) -> float:
        """The share of what is read that comes from memory."""
        if not self._cache_bytes:
            return 1.0
        return 1.0 - resident_share(self._product_bytes + num_keys * self._kv_bytes, self._cache_bytes)

    def _either(self, first_s: float, second_s: float) -> float:
        """The longer of two that overlap, and more where they are alike."""
        longer, shorter = (first_s, second_s) if first_s > second_s else (second_s, first_s)
        if shorter <= 0.2 * longer:
            return longer
        return float(longer * (1 + (shorter / longer) ** self._power) ** (1 / self._power))

    def _attended(
        self,
        window: int | None,
        num_decoding: float,
        context_len: float,
        rows_each: float,
        chunks: Sequence[tuple[float, float]],
    ) -> list[tuple[float, float, float]]:
        """(query, key) pairs of a head, keys that are read, and tokens of a sequence: of the decoding and of each
        chunk."""
        parts = []
        if num_decoding:
            seen = context_len + rows_each
            seen = seen if window is None else min(seen, window)
            pairs = num_decoding * rows_each * (seen + self._extra_keys)
            parts.append((pairs, num_decoding * seen, float(rows_each)))
        for start, length in chunks:
            last = start + length
            keys = last if window is None else min(last, window + length - 1)
            pairs = _pairs(start, length, window) + length * self._extra_keys
            parts.append((pairs, keys, length))
        return parts


@lru_cache(maxsize=4096)
def step_model(
    spec: ModelSpec, machine: Machine, deployment: Deployment, stored: StoredEncodings | None = None
) -> StepModel:
    """The model of steps of a deployment, kept for the next call."""
    weights = weight_plan(spec, deployment.quantization, machine.kind, stored)
    return StepModel(spec, weights, kv_spec(spec, deployment), machine, deployment.num_threads)


def draft_step_model(machine: Machine, deployment: Deployment) -> StepModel | None:
    """Of the draft that guesses; None where nothing is computed for a guess."""
    plan = deployment.speculation
    if plan is None or plan.draft is None:
        return None
    alone = Deployment(quantization=plan.draft_quantization, num_threads=deployment.num_threads)
    return step_model(plan.draft, machine, alone)


def resident_share(num_bytes: float, cache_bytes: int) -> float:
    """The share of what it reads that a step finds in the last-level cache."""
    if not cache_bytes:
        return 0.0
    return min(1.0, KEPT * cache_bytes / num_bytes) if num_bytes else 1.0


def row_floats(spec: ModelSpec) -> float:
    """Floats that one token's operations between products read and write, in all layers."""
    D, Q, G, F = spec.hidden_size, spec.query_size, spec.kv_size, spec.intermediate_size
    norms = 2 * D * (2 + 2 * spec.post_norms) + 2 * (Q + G) * spec.qk_norm
    return float(spec.num_layers * (norms + 2 * (Q + G) + 4 * G + 3 * F + 6 * D))


def _pairs(start: float, length: float, window: int | None) -> float:
    """Sum of what each token of a chunk sees, itself included."""
    if window is None or start + length <= window:
        return length * (start + (length + 1) / 2)
    before = max(0.0, window - start)  # tokens that do not fill the window yet
    return before * (start + (before + 1) / 2) + (length - before) * window


def _product_time(product: Product, machine: Machine, read: float, width: int) -> _ProductTime:
    efficiency = machine.efficiency
    share = efficiency.bandwidth.get(product.layout, efficiency.bandwidth[""])
    measured = efficiency.rates.get(product.layout)
    if measured is not None:
        curve = measured.at_width(width)
    else:
        curve = RateCurve((1,), (machine.peak(product.layout) * efficiency.arithmetic,))
    memory_s = product.num_bytes / (read * share)
    return _ProductTime(2.0 * product.elements, memory_s, curve, product.is_head)


def _attention_curve(spec: ModelSpec, kv: KVSpec, machine: Machine) -> RateCurve:
    """By tokens of a sequence. With few query heads to a head of keys, reading and widening the keys is divided among
    fewer: decoding takes longer for each of them."""
    efficiency = machine.efficiency
    curve = efficiency.attention_rates.get(kv.dtype) or efficiency.attention_rates.get("bf16")
    if curve is None:
        peak = machine.peak(ATTENTION_UNITS.get(kv.dtype, "bf16"))
        return RateCurve((1,), (peak * efficiency.attention_arithmetic,))
    measured = efficiency.attention_groups.get(kv.dtype)
    if measured is None:
        return curve
    group, share = spec.num_heads / spec.num_kv_heads, measured[1]
    slower = max(0.2, 1 + share * (1 / group - 1 / measured[0]))
    return RateCurve(curve.rows, (curve.operations_per_s[0] / slower, *curve.operations_per_s[1:]))
