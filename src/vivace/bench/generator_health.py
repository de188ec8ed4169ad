"""Whether the load generator itself kept up: a slow one measures itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass

LATE_S = 0.010  # a request sent later than this was held up; asyncio on an idle machine stays under 2 ms
LATE_SHARE = 0.01
STANDSTILL_MS = 250.0  # once is enough: every stream was blind for so long
BUSY_SHARE = 0.85  # of one core: parsing and sending run on one thread


@dataclass(frozen=True, slots=True)
class GeneratorLoad:
    """What the generator's process went through. `loop_lag_*`: how late its event loop ran what was due."""

    loop_lag_p99_ms: float
    loop_lag_max_ms: float
    cpu_share: float  # of one core


@dataclass(frozen=True, slots=True)
class GeneratorHealth:
    """How late requests went out, and why; `warnings` is empty for one that kept up."""

    send_lag_p50_ms: float | None
    send_lag_p99_ms: float | None
    send_lag_max_ms: float | None
    late_share: float  # of the requests, those sent over 10 ms after they were due
    load: GeneratorLoad | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        found = []
        if self.late_share > LATE_SHARE:
            found.append(
                f"the load generator sent {self.late_share:.1%} of the requests more than {1e3 * LATE_S:.0f} ms late "
                f"(p99 {self.send_lag_p99_ms or 0:.0f} ms); latencies count from when they were due"
            )
        if self.load is not None and self.load.loop_lag_p99_ms > 1e3 * LATE_S:
            found.append(
                f"the load generator's event loop ran {self.load.loop_lag_p99_ms:.0f} ms late (p99): token times are "
                "that much too late; use fewer streams, or a machine of its own"
            )
        if self.load is not None and self.load.loop_lag_max_ms > STANDSTILL_MS:
            found.append(
                f"the load generator stood still for {self.load.loop_lag_max_ms / 1e3:.2f} s (stopped, or without a "
                "processor): the longest latencies are its own"
            )
        if self.load is not None and self.load.cpu_share > BUSY_SHARE:
            found.append(
                f"the load generator used {self.load.cpu_share:.0%} of its core: it, not the server, may be what is "
                "measured; use fewer streams, or several generators"
            )
        return tuple(found)

    def record(self) -> dict[str, object]:
        return {**asdict(self), "warnings": list(self.warnings)}
