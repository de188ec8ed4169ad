"""What a request's reader felt, from its record. Times count from the intended moment of sending (`RequestRecord`).

TTFT: to the first token. E2EL: to the last. TPOT: (E2EL - TTFT) / (tokens - 1), one figure a request.
ITL: gaps between arrivals. Tokens that come together (speculation, a server that writes several at once) make one
arrival, so ITL grows where TPOT shrinks: how jerky and how fast are two questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from vivace.bench.records import RequestRecord
from vivace.bench.slo import SLO


@dataclass(frozen=True, slots=True)
class Latency:
    """One answered request, in milliseconds; None or empty where it has too few tokens."""

    ttft_ms: float | None
    tpot_ms: float | None
    e2el_ms: float
    gaps_ms: tuple[float, ...]
    queue_ms: float | None

    @classmethod
    def of(cls, record: RequestRecord) -> Latency:
        arrivals = sorted(set(record.token_s))
        first, last = (arrivals[0], arrivals[-1]) if arrivals else (None, record.ended_s)
        has_rate = first is not None and record.output_len > 1
        return cls(
            ttft_ms=None if first is None else 1e3 * (first - record.intended_s),
            tpot_ms=1e3 * (last - first) / (record.output_len - 1) if has_rate and first is not None else None,
            e2el_ms=1e3 * (last - record.intended_s),
            gaps_ms=tuple(1e3 * (late - early) for early, late in pairwise(arrivals)),
            queue_ms=None if record.queue_s is None else 1e3 * record.queue_s,
        )

    def keeps(self, slo: SLO) -> bool:
        """Whether every bound holds; a bound on what the request does not have (TPOT of one token) holds."""
        felt = {
            "ttft": self.ttft_ms,
            "tpot": self.tpot_ms,
            "itl": max(self.gaps_ms, default=None),
            "e2el": self.e2el_ms,
        }
        bounds = ((getattr(slo, name), value) for name, value in felt.items())
        return all(bound is None or value is None or value <= bound for bound, value in bounds)
