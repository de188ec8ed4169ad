"""Efficiencies of this machine, fitted to measured steps, and where they are kept.

Each parameter is read off the steps in which it rules: the share of the read rate from one row over weights that
stream, rates of arithmetic from many rows, overheads from the smallest operations. Nothing is fitted by weights that
trade one against the other, so that a figure of the result means what its name says.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from vivace.core.errors import ConfigError
from vivace.plan.machine import Efficiency, RateCurve, WidthRates
from vivace.plan.measurement import CACHED_STREAMS, SHALLOW, StepSample
from vivace.plan.step_time import resident_share

STREAMED_ROWS = 24  # from here on weights that stream cost nothing beside the arithmetic
SHARES = tuple(percent / 100 for percent in range(60, 161, 4))
OVERLAPS = (1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0)
ATTENTION_LAYOUT = "q8_0"  # of the weights beside which attention was measured
MAX_SHARE = 2.0  # of a plain read: more is a disturbed measurement


def fit(samples: Sequence[StepSample], basis: str, cache_bytes: int = 0) -> Efficiency:
    """From the samples of `measure_steps`, on a machine with such a last-level cache. Raises `ConfigError` where they
    lack a kind."""
    cached = [one for one in samples if one.is_cached]
    streamed = [one for one in samples if not one.is_cached]
    if not cached or not streamed:
        raise ConfigError("a calibration needs steps over weights in the caches and over weights in memory")
    op_s = _operation_overhead(cached)
    product_op_s = _product_overhead(cached)
    rates = {
        layout: _width_rates([one for one in samples if one.layout == layout], product_op_s)
        for layout in dict.fromkeys(one.layout for one in samples)
    }
    share, overlap = min(
        ((share, power) for share in SHARES for power in OVERLAPS),
        key=lambda pair: _streaming_error(streamed, rates, cache_bytes, *pair),
    )
    extra_keys, attention_rates, kv_share = _attention(samples, overlap)
    step_s, sequence_s, logit_s = _engine(cached)
    return Efficiency(
        basis=basis,
        is_measured=True,
        bandwidth={"": share},
        kv_bandwidth=kv_share,
        overlap=overlap,
        rates=rates,
        attention_rates=attention_rates,
        attention_keys=extra_keys,
        attention_groups=_groups(samples),
        row_bytes_per_s=_row_rate(streamed, op_s),
        step_s=step_s,
        op_s=op_s,
        product_op_s=product_op_s,
        sequence_s=sequence_s,
        logit_s=logit_s,
    )


def _rows(sample: StepSample) -> int:
    return sample.num_streams * sample.num_new


def _operation_overhead(cached: Sequence[StepSample]) -> float:
    """Of a row's operations, whose work is nothing beside it: as a rule. At its best it is two thirds of that."""
    fewest = min(map(_rows, cached))
    return statistics.median(one.rows.seconds / one.rows.num_ops for one in cached if _rows(one) == fewest)


def _product_overhead(cached: Sequence[StepSample]) -> float:
    """What a product costs however small it is: where the line through a small and a large one meets no work."""
    overheads = []
    narrow = min(one.width for one in cached)
    for one in cached:
        if _rows(one) == 1 and one.width == narrow:
            small_s, large_s = one.small.seconds / one.small.num_ops, one.products.seconds / one.products.num_ops
            small, large = one.small.operations / one.small.num_ops, one.products.operations / one.products.num_ops
            overheads.append(max(0.0, small_s - (large_s - small_s) / (large - small) * small))
    return statistics.median(overheads)


def _rates(samples: Sequence[StepSample], op_s: float) -> dict[int, float]:
    """Operations a second by rows, without the operations' overhead: medians over the rounds."""
    rates: dict[int, list[float]] = {}
    for one in samples:
        work = one.products + one.small
        seconds = max(work.seconds - op_s * work.num_ops, work.seconds / 2)
        rates.setdefault(_rows(one), []).append(work.operations / seconds)
    return {rows: statistics.median(values) for rows, values in rates.items()}


def _width_rates(samples: Sequence[StepSample], op_s: float) -> WidthRates:
    """A curve for each width. Where weights stream, few rows say nothing of the arithmetic: the next narrower width
    stands in, raised by what the wide one gains where it is known."""
    shallow = [one for one in samples if one.kv_dtype == "bf16" and one.depth <= SHALLOW]
    widths = sorted({one.width for one in shallow})
    curves: list[dict[int, float]] = []
    for width in widths:
        of_width = [one for one in shallow if one.width == width]
        rates = _rates(of_width, op_s)
        if curves and not of_width[0].is_cached:
            below = curves[-1]
            many = [rows for rows in rates if rows >= STREAMED_ROWS and rows in below]
            gain = statistics.median(rates[rows] / below[rows] for rows in many) if many else 1.0
            few = {rows: rate * gain for rows, rate in below.items() if rows < STREAMED_ROWS}
            rates = rates | {rows: max(rate, rates.get(rows, 0.0)) for rows, rate in few.items()}
        curves.append(rates)
    return WidthRates(tuple(widths), tuple(_curve(rates) for rates in curves))


def _curve(rates: Mapping[int, float]) -> RateCurve:
    """Never falling with the rows until the best is reached: a dip is a disturbed measurement."""
    rows = sorted(rates)
    values = [rates[count] for count in rows]
    for index in range(1, len(values) - 1):
        values[index] = max(values[index], min(values[index - 1], values[index + 1]))
    return RateCurve(tuple(rows), tuple(values))


def _streaming_error(
    streamed: Sequence[StepSample], rates: Mapping[str, WidthRates], cache_bytes: int, share: float, power: float
) -> float:
    """Mean error of products of few rows over weights that come from memory. All layouts share one rate of bytes."""
    errors = []
    for one in streamed:
        if one.depth <= SHALLOW and _rows(one) < STREAMED_ROWS:
            work = one.products + one.small
            kept = resident_share(work.num_bytes + one.head.num_bytes, cache_bytes)
            memory_s = work.num_bytes * (1 - kept) / (one.read_bytes_per_s * share)
            arithmetic_s = work.operations / rates[one.layout].at_width(one.width).at(_rows(one))
            errors.append(abs(math.log((memory_s**power + arithmetic_s**power) ** (1 / power) / work.seconds)))
    return statistics.mean(errors)


def _attention(samples: Sequence[StepSample], overlap: float) -> tuple[float, dict[str, RateCurve], float]:
    """Keys that are computed beside those that count (blocks are padded), rates by cache type, share of the read."""
    extra, shares, curves = 0.0, [], {}
    for dtype in dict.fromkeys(one.kv_dtype for one in samples):
        of_dtype = [one for one in samples if one.kv_dtype == dtype and one.layout == ATTENTION_LAYOUT]
        rate, extra_keys = _alone(of_dtype)
        extra = max(extra, extra_keys) if dtype != "bf16" else extra_keys
        points = {1: rate}
        for one in of_dtype:
            if one.is_cached or one.depth <= SHALLOW:
                continue
            if one.num_new > 1:
                points[one.num_new] = max(points.get(one.num_new, 0.0), _attention_rate(one, extra_keys))
            elif one.depth > 512 and dtype == "bf16":
                rest = one.attention.seconds**overlap - (_padded(one, extra_keys) / rate) ** overlap
                memory_s = max(rest, (one.attention.seconds / 2) ** overlap) ** (1 / overlap)
                shares.append(min(MAX_SHARE, one.attention.num_bytes / memory_s / one.read_bytes_per_s))
        rows = sorted(points)
        curves[dtype] = RateCurve(tuple(rows), tuple(points[count] for count in rows))
    return extra, curves, statistics.median(shares)


def _alone(samples: Sequence[StepSample]) -> tuple[float, float]:
    """Of decoding with the cache near the core: operations a second, and the keys beside those that count, from the
    line through a shallow step and a deeper one."""
    widest = max((one.group for one in samples if _is_near(one)), default=0)
    near = [one for one in samples if _is_near(one) and one.group == widest]
    if not near:
        raise ConfigError("a calibration needs attention over keys near the core")
    shallow = min(near, key=lambda one: (one.depth, one.attention.seconds))
    deep = min(near, key=lambda one: (-one.depth, one.attention.seconds))
    if deep.depth == shallow.depth:
        raise ConfigError("a calibration needs attention at two depths")
    operations = deep.attention.operations - shallow.attention.operations
    seconds = max(deep.attention.seconds - shallow.attention.seconds, deep.attention.seconds / 4)
    rate = operations / seconds
    padding = shallow.attention.seconds * rate - shallow.attention.operations
    return rate, max(0.0, padding * (shallow.depth + 1) / shallow.attention.operations)


def _groups(samples: Sequence[StepSample]) -> dict[str, tuple[int, float]]:
    """By cache type: how many query heads shared a head of keys where decoding was measured, and the share of the
    time that was spent on the keys alone, which groups of another size pay for with fewer or more queries: from a
    second measurement with groups of another size."""
    found: dict[str, tuple[int, float]] = {}
    for dtype in dict.fromkeys(one.kv_dtype for one in samples):
        near = [one for one in samples if one.kv_dtype == dtype and _is_near(one)]
        groups = {one.group: _seconds_a_key(near, one.group) for one in near}
        if len(groups) < 2:
            continue
        small, large = min(groups), max(groups)
        share = (groups[small] / groups[large] - 1) / (1 / small - 1 / large) if groups[large] else 0.0
        found[dtype] = (large, min(float(large), max(0.0, share)))
    return found


def _is_near(sample: StepSample) -> bool:
    """Whether only attention at some depth was of interest, over keys near the core."""
    of_attention = sample.layout == ATTENTION_LAYOUT and sample.num_streams == CACHED_STREAMS
    return of_attention and sample.is_cached and sample.num_new == 1


def _seconds_a_key(samples: Sequence[StepSample], group: int) -> float:
    """Of an operation of attention: between a shallow step and a deeper one."""
    of_group = [one for one in samples if one.group == group]
    depths = sorted({one.depth for one in of_group})
    seconds, operations = (
        {
            depth: statistics.median(getattr(one.attention, name) for one in of_group if one.depth == depth)
            for depth in (depths[0], depths[-1])
        }
        for name in ("seconds", "operations")
    )
    more = operations[depths[-1]] - operations[depths[0]]
    return max(0.0, seconds[depths[-1]] - seconds[depths[0]]) / more if more else 0.0


def _padded(sample: StepSample, extra_keys: float) -> float:
    mean_keys = sample.depth + (sample.num_new + 1) / 2
    return sample.attention.operations * (1 + extra_keys / mean_keys)


def _attention_rate(sample: StepSample, extra_keys: float) -> float:
    return _padded(sample, extra_keys) / sample.attention.seconds


def _row_rate(streamed: Sequence[StepSample], op_s: float) -> float:
    """Bytes a second of the operations between products, at many rows."""
    rates = []
    for one in streamed:
        if _rows(one) >= STREAMED_ROWS:
            seconds = max(one.rows.seconds - op_s * one.rows.num_ops, one.rows.seconds / 2)
            rates.append(one.rows.num_bytes / seconds)
    return statistics.quantiles(rates, n=4)[-1]


def _engine(cached: Sequence[StepSample]) -> tuple[float, float, float]:
    """Seconds a step, a sequence and a logit that is sampled from: a line through the fewest and the most sequences,
    each at the median of its rounds. The best round would promise what a core that is shared seldom keeps: from one
    round to the next Python takes from one to two times as long."""
    timed = [one for one in cached if one.python_s is not None]
    if len({one.num_streams for one in timed}) < 2:
        raise ConfigError("a calibration needs the engine's overhead at two numbers of sequences")
    few, many = (end(one.num_streams for one in timed) for end in (min, max))
    python_s, sampling_s = (
        {
            count: statistics.median(getattr(one, name) or 0.0 for one in timed if one.num_streams == count)
            for count in (few, many)
        }
        for name in ("python_s", "sampling_s")
    )
    sequence_s = max(0.0, (python_s[many] - python_s[few]) / (many - few))
    logit_s = max(0.0, (sampling_s[many] - sampling_s[few]) / ((many - few) * timed[0].vocab_size))
    step_s = python_s[few] - sequence_s * few + sampling_s[few] - logit_s * few * timed[0].vocab_size
    return max(0.0, step_s), sequence_s, logit_s
