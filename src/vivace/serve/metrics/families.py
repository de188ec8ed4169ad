"""Names and labels of metric families, in one shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from vivace.serve.metrics.histogram import Histogram

PREFIX = "vivace:"


class Labels(NamedTuple):
    names: tuple[str, ...]
    values: tuple[str, ...]


def gauge(name: str, text: str, labels: Labels, value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels.names)
    family.add_metric(labels.values, value)
    return family


def counter(name: str, text: str, labels: Labels, value: float) -> CounterMetricFamily:
    """Its sample ends in `_total`."""
    family = CounterMetricFamily(PREFIX + name, text, labels=labels.names)
    family.add_metric(labels.values, value)
    return family


def counters(name: str, text: str, labels: Labels, label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    """One sample for each value of a further label."""
    family = CounterMetricFamily(PREFIX + name, text, labels=(*labels.names, label))
    for key, value in values.items():
        family.add_metric((*labels.values, key), value)
    return family


def histogram(name: str, text: str, labels: Labels, values: Histogram) -> HistogramMetricFamily:
    return histograms(name, text, labels, (), {(): values})


def histograms(
    name: str, text: str, labels: Labels, further: tuple[str, ...], values: Mapping[tuple[str, ...], Histogram]
) -> HistogramMetricFamily:
    """One histogram for each combination of further labels."""
    family = HistogramMetricFamily(PREFIX + name, text, labels=(*labels.names, *further))
    for keys, one in values.items():
        family.add_metric((*labels.values, *keys), one.cumulative(), one.sum)
    return family
