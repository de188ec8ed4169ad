"""Clients that leave before their answer has ended."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

from vivace.bench.traffic.request import Traffic
from vivace.core.errors import ConfigError


def with_cancellations(traffic: Traffic, share: float, after_s: float) -> Traffic:
    """`share` of the clients (0 to 1), drawn by the traffic's seed, leave after an exponential time of mean `after_s`
    seconds from sending. A dialogue goes on after an answer that was broken off.

    Raises `ConfigError` for a share outside 0 to 1 or a time that is not above 0.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"the share of clients that leave is from 0 to 1, not {share}")
    if not (math.isfinite(after_s) and after_s > 0):
        raise ConfigError(f"clients leave after a time above 0 seconds, not {after_s}")
    if share == 0:
        return traffic
    random = Random(f"{traffic.seed} cancellations")
    requests = tuple(
        replace(request, cancel_after_s=random.expovariate(1 / after_s)) if random.random() < share else request
        for request in traffic.requests
    )
    source = traffic.source | {"cancel_share": share, "cancel_after_s": after_s}
    return replace(traffic, requests=requests, source=source)
