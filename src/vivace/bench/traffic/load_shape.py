"""How requests come: in an open loop at a rate, in a closed loop by a number of users, or all at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vivace.bench.traffic.arrivals import Ramp, arrivals
from vivace.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LoadShape:
    """`rate` (requests a second, with `burstiness` and `ramp`) or `concurrency` (users); neither: all at once."""

    rate: float | None = None
    burstiness: float = 1.0
    concurrency: int | None = None
    ramp: Ramp | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and self.concurrency is not None:
            raise ConfigError("give a rate (open loop) or a number of users (closed loop), not both")
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigError(f"a closed loop has 1 user or more, not {self.concurrency}")
        if self.ramp is not None and (self.rate is None or math.isinf(self.rate)):
            raise ConfigError("a ramp needs the rate that it leads to")

    def arrivals(self, num_turns: Sequence[int], seed: int) -> list[float | None]:
        """When each dialogue begins, given its number of requests: such that all requests together come at `rate`."""
        count = len(num_turns)
        if self.concurrency is not None:
            return [None] * count
        if self.rate is None:
            return [0.0] * count
        share = count / sum(num_turns)  # of requests that begin a dialogue
        ramp = None if self.ramp is None else Ramp(self.ramp.start_rate * share, self.ramp.shape)
        return list(arrivals(count, self.rate * share, burstiness=self.burstiness, ramp=ramp, seed=seed))

    def record(self) -> dict[str, object]:
        """For the traffic's source."""
        entries: dict[str, object] = {"rate": self.rate, "concurrency": self.concurrency}
        if self.rate is not None:
            entries["burstiness"] = self.burstiness
        if self.ramp is not None:
            entries["ramp"] = f"{self.ramp.shape} from {self.ramp.start_rate:g}/s"
        return {name: value for name, value in entries.items() if value is not None}
