"""One model on one machine, served in one way: simulated under any load, and the most load that keeps objectives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from vivace.models.spec import ModelSpec
from vivace.plan.deployment import Deployment
from vivace.plan.machine import Machine
from vivace.plan.memory import MemoryNeed, memory_need
from vivace.plan.outcome import Outcome, Window, outcome
from vivace.plan.players import Players
from vivace.plan.simulation import Simulation
from vivace.plan.step_cost import StepCost
from vivace.plan.step_time import draft_step_model, step_model
from vivace.plan.weights import StoredEncodings
from vivace.plan.workload import Load, Workload

FEWEST, MOST = 160, 800  # requests of one play
ROUNDS, FEWEST_ROUNDS = 4, 3  # requests of each user, in plays of up to MOST and in longer ones
MAX_USERS = 1024  # that are looked for on one machine: plays grow with them
RATE_RANGE = 4096.0  # times more or less than the rate that was asked for
STRIDE, CLOSE = 1.4, 1.08  # of the search for the most load


@dataclass(frozen=True, slots=True)
class Capacity:
    """The most load that keeps the objectives, and what it is like. `users` of a closed loop with the requests a
    second that they come to; in an open loop the rate, and how many then run at once on average. 0: not even one."""

    users: float
    rate_per_s: float
    outcome: Outcome | None = None


class PlannedService:
    """Plays are seeded: the same question has the same answer."""

    def __init__(
        self,
        spec: ModelSpec,
        machine: Machine,
        deployment: Deployment,
        workload: Workload,
        *,
        stored: StoredEncodings | None = None,
    ) -> None:
        self._deployment = deployment
        self._workload = workload
        target, draft = step_model(spec, machine, deployment, stored), draft_step_model(machine, deployment)
        self._cost = StepCost(target, deployment, draft)
        self.memory: MemoryNeed = memory_need(spec, machine, deployment, workload.traffic(FEWEST).longest, stored)

    def play(self, load: Load, *, whole: bool = False) -> Outcome:
        """Under one load. `whole`: from the first request to the last, with the crowd's coming and going, as a
        benchmark counts; else in between, where it is as it would be for hours. It must fit (`memory.fits`)."""
        num_requests = FEWEST if load.users is None else _enough(load.users)
        found = self._played(load, num_requests, whole)
        enough = _enough(found.running)
        if load.rate_per_s is not None and enough > num_requests:  # so many at once that it was over too soon
            found = self._played(load, enough, whole)
        return found

    def _played(self, load: Load, num_requests: int, whole: bool) -> Outcome:
        traffic = self._workload.traffic(num_requests)
        players = Players(traffic, users=load.users, rate=load.rate_per_s)
        deployment = self._deployment
        blocks = self.memory.num_kv_blocks(deployment.block_size)
        wake_s = self._cost.wake_s
        simulation = Simulation(traffic, players, self._cost, deployment, num_kv_blocks=blocks, wake_s=wake_s)
        records = simulation.play()
        if whole or (load.users is None and load.rate_per_s is None):
            return outcome(records, simulation.totals, load.slo)
        begin_s = 0.0
        if load.users is not None:
            ends = sorted(one.ended_s for one in records)
            begin_s = ends[max(0, min(load.users, len(ends) // 3) - 1)]
        return outcome(records, simulation.totals, load.slo, Window(begin_s, players.last_begun_s))

    def capacity(self, load: Load, guess: float | None = None) -> Capacity:
        """The most users, or requests a second where the load is an open loop, within the load's objectives: found
        by bisection over plays from `guess` on, None: from the load itself."""
        plays: dict[float, Outcome] = {}

        def keeps(value: float) -> bool:
            found = plays[value] = self.play(_loaded(load, value))
            is_good = found.good_share is None or found.good_share >= load.slo_share
            return is_good and (load.rate_per_s is None or found.keeps_up)

        if load.rate_per_s is None:
            users = _largest(keeps, 1, guess or load.users or 8, MAX_USERS, is_whole=True)
            found = plays.get(users)
            return Capacity(users, 0.0 if found is None else found.requests_per_s, found)
        least, most = load.rate_per_s / RATE_RANGE, load.rate_per_s * RATE_RANGE
        rate = _largest(keeps, least, guess or load.rate_per_s, most, is_whole=False)
        found = plays.get(rate)
        return Capacity(0.0 if found is None else found.running, rate, found)


def _enough(num_running: float) -> int:
    """Requests of a play with so many at once."""
    return math.ceil(max(FEWEST, min(MOST, ROUNDS * num_running), FEWEST_ROUNDS * num_running))


def _loaded(load: Load, value: float) -> Load:
    return replace(load, rate_per_s=value) if load.rate_per_s else replace(load, users=round(value))


def _largest(keeps: Callable[[float], bool], least: float, guess: float, most: float, *, is_whole: bool) -> float:
    """The largest value that keeps, within `CLOSE`: steps of `STRIDE` from a guess until both sides are known, then
    bisected in proportion. 0 where not even `least` does."""
    low, high = 0.0, math.inf
    value = _rounded(min(most, max(least, guess)), is_whole)
    while True:
        if keeps(value):
            low = value
            following = min(most, max(value * STRIDE, value + is_whole))
        else:
            high = value
            following = max(least, min(value / STRIDE, value - is_whole))
        if low >= most or high <= least:
            return low
        if low and high < math.inf:
            break
        value = _rounded(following, is_whole)
    while high / low > CLOSE and not (is_whole and high - low <= 1):
        middle = math.sqrt(low * high)
        value = min(high - 1, max(low + 1, round(middle))) if is_whole else middle
        low, high = (value, high) if keeps(value) else (low, value)
    return low


def _rounded(value: float, is_whole: bool) -> float:
    return float(round(value)) if is_whole else value
