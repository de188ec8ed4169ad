"""The rounds of one `vivace bench compare`."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from vivace.bench.comparison import Ratio, ratios
from vivace.bench.load.local_gpu import gpu_facts
from vivace.bench.load.run import send
from vivace.bench.recorded_run import RecordedRun, recorded_run
from vivace.bench.store.location import default_store_path
from vivace.bench.store.result_store import ResultStore
from vivace.bench.summary import Summary
from vivace.bench.traffic.prompt_text import PromptText
from vivace.bench.traffic.request import Traffic
from vivace.bench.traffic.warm_up import warm_up_traffic
from vivace.cli.load_options import LoadOptions
from vivace.cli.load_session import client_machine
from vivace.cli.load_target import OpenTarget
from vivace.cli.load_traffic import load_traffic
from vivace.cli.load_view import LoadView

Sides = tuple[OpenTarget, OpenTarget]


class LoadComparison:
    """Both sides get the same prompts in a round, cut to the smaller context; who goes first changes every round."""

    def __init__(self, sides: Sides, load: LoadOptions, seed: int, store: str | None) -> None:
        self._sides = sides
        self._load = load
        self._seed = seed
        self._store = ResultStore(store or default_store_path())
        self._rounds: list[tuple[RecordedRun, RecordedRun]] = []
        self.error: BaseException | None = None

    def __enter__(self) -> LoadComparison:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()

    @property
    def names(self) -> tuple[str, str]:
        first, second = (f"{side.description.model} at {side.name}" for side in self._sides)
        return first, second

    @property
    def ratios(self) -> list[Ratio]:
        return ratios(self._summaries())

    def run(self, num_rounds: int, rate: float | None) -> None:
        """Until an error, which is kept in `error`; rounds that are whole count."""
        traffics = [self._traffic(number, rate) for number in range(num_rounds)]
        for side in self._sides:
            if self._load.warm_up:
                warming = warm_up_traffic(traffics[0], PromptText(side.tokenizer), self._load.warm_up)
                send(warming, side.target)
        for number, traffic in enumerate(traffics):
            runs: dict[int, RecordedRun] = {}
            for place in (0, 1) if number % 2 == 0 else (1, 0):
                runs[place] = self._run(place, number, traffic)
                if runs[place].error is not None:
                    self.error = runs[place].error
                    return
            self._rounds.append((runs[0], runs[1]))

    def _traffic(self, number: int, rate: float | None) -> Traffic:
        context = min(side.max_model_len for side in self._sides)
        return load_traffic(self._load, self._sides[0].tokenizer, context, self._seed + number, rate=rate)

    def _run(self, place: int, number: int, traffic: Traffic) -> RecordedRun:
        side = self._sides[place]
        options = {"model": side.description.model, "target": side.name, "side": "AB"[place], "round": number + 1}
        with LoadView(f"{'AB'[place]}{number + 1}") as show:
            return recorded_run(
                traffic,
                side.target,
                self._store,
                options,
                {**client_machine(), **gpu_facts(side.target)},
                kind="compare",
                slo=self._load.slo,
                show=show,
            )

    def _summaries(self) -> list[tuple[Summary, Summary]]:
        pairs = ((first.summary, second.summary) for first, second in self._rounds)
        return [(a, b) for a, b in pairs if a is not None and b is not None]

    def record(self) -> dict[str, Any]:
        """For JSON."""
        first, second = self.names
        return {
            "a": first,
            "b": second,
            "store": str(self._store.path),
            "runs": [[run.number for run in pair] for pair in self._rounds],
            "ratios": {one.figure: one.record() for one in self.ratios},
            "warnings": sorted({w for pair in self._summaries() for one in pair for w in one.generator.warnings}),
            "rounds": [[one.record() for one in pair] for pair in self._summaries()],
            "error": None if self.error is None else str(self.error) or type(self.error).__name__,
        }
