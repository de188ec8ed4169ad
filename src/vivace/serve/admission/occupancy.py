"""How full the waiting room is, in all and by key."""

from __future__ import annotations

from typing import Literal

from vivace.serve.admission.demand import Demand
from vivace.serve.admission.limits import AdmissionLimits

Refusal = Literal["requests", "tokens", "blocks", "wait", "late", "deadline"]

OWN_OF_FREE = (
    8.0  # a key may hold this many times what is free: alone 8/9 of a bound, and the rest is there for others
)


class Occupancy:
    """Bounded sums of what waits (requests, prompt tokens) and of what is admitted (worst-case blocks).

    Each bound is shared by dynamic thresholds (Choudhury and Hahne 1998): a key may hold `OWN_OF_FREE` times what is
    still free, so one key's flood leaves room for the next key and nothing is set aside for keys that are silent.
    """

    def __init__(self, limits: AdmissionLimits) -> None:
        self._max_requests = limits.max_queued_requests
        self._max_tokens = limits.queued_tokens_bound
        self._max_blocks = limits.max_worst_case_pools * limits.engine.num_kv_blocks
        self.waiting = Demand()
        self.admitted = Demand()
        self._waiting_of: dict[str, Demand] = {}
        self._admitted_of: dict[str, Demand] = {}

    def refusal(self, key: str, demand: Demand) -> Refusal | None:
        """The bound that the demand would break; None where it may come. The first that waits always may."""
        if not self.waiting.num_requests:
            return None
        nothing = Demand()
        waiting, admitted = self._waiting_of.get(key, nothing), self._admitted_of.get(key, nothing)
        if not _fits(self._max_requests, self.waiting.num_requests, waiting.num_requests, 1):
            return "requests"
        wanted = demand.num_prompt_tokens
        if not _fits(self._max_tokens, self.waiting.num_prompt_tokens, waiting.num_prompt_tokens, wanted):
            return "tokens"
        if not _fits(self._max_blocks, self.admitted.worst_blocks, admitted.worst_blocks, demand.worst_blocks):
            return "blocks"
        return None

    def is_full(self, key: str) -> bool:
        """Whether one more request of the key would break the bound on their number, whatever it asks for."""
        own = self._waiting_of.get(key, Demand()).num_requests
        return bool(self.waiting.num_requests) and not _fits(self._max_requests, self.waiting.num_requests, own, 1)

    def enter(self, key: str, demand: Demand) -> None:
        for total in (self.waiting, self._waiting_of.setdefault(key, Demand())):
            total.add(demand)
        for total in (self.admitted, self._admitted_of.setdefault(key, Demand())):
            total.add(demand)

    def stop_waiting(self, key: str, demand: Demand) -> None:
        self.waiting = _taken(self._waiting_of, self.waiting, key, demand)

    def leave(self, key: str, demand: Demand) -> None:
        """Everything that `enter` counted is gone; to be called after `stop_waiting`."""
        self.admitted = _taken(self._admitted_of, self.admitted, key, demand)


def _fits(limit: float, total: float, own: float, wanted: float) -> bool:
    return total + wanted <= limit and own + wanted <= OWN_OF_FREE * (limit - total)


def _taken(by_key: dict[str, Demand], total: Demand, key: str, demand: Demand) -> Demand:
    by_key[key].remove(demand)
    if not round(by_key[key].num_requests):
        del by_key[key]
    total.remove(demand)
    return total if round(total.num_requests) else Demand()
