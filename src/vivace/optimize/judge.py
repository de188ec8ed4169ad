"""Quality on the engine that serves: divergence and perplexity of a text, accuracies of tasks, greedy texts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from vivace.core.config import KVDtype
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM
from vivace.engine.loader import LoadedEngine
from vivace.evaluate.quality import measure_quality
from vivace.evaluate.tasks import PosedTask, TaskResult, run_task
from vivace.optimize.candidate import Candidate
from vivace.optimize.engine_shelf import EngineShelf
from vivace.optimize.measurement import Interaction, Quality
from vivace.optimize.remembered_logits import LogitsMemory, RememberedLLM

PROBE_TOKENS = 32  # greedy ones of each probe: later ones follow from those before
ACCURACIES = ("acc_norm", "acc", "exact_match")  # the first that a task has counts
EVALUATION_SEQS = 8


def plain(candidate: Candidate) -> Candidate:
    """The same weights and cache without the serving tricks."""
    return replace(
        candidate,
        max_num_seqs=1,
        max_num_batched_tokens=max(512, candidate.max_num_batched_tokens),
        block_size=16,
        enable_prefix_caching=False,
        speculation=None,
        batching="continuous",
    )


@dataclass(slots=True)
class Judge:
    """`reference` gives the text that is aimed at: weights as stored, a cache of their precision."""

    shelf: EngineShelf
    reference: Candidate
    text: str
    probes: list[list[int]]
    tasks: tuple[PosedTask, ...] = ()
    clock: Callable[[], float] = time.monotonic
    _reference_logits: LogitsMemory = field(default_factory=LogitsMemory)
    _reference_tasks: list[TaskResult] | None = None
    _texts: dict[Candidate, list[list[int]]] = field(default_factory=dict)

    def quality(self, candidate: Candidate) -> Quality:
        started = self.clock()
        llm = self._llm(candidate)
        reference = RememberedLLM.over(self._scoring(self.reference), self._reference_logits)
        window = min(512, llm.engine.config.max_model_len)
        found = measure_quality(llm, reference, self.text, window=window, stride=window // 2)
        assert found.kl_divergence_mean is not None
        assert found.perplexity_change is not None
        return Quality(
            kl=found.kl_divergence_mean,
            perplexity=found.perplexity,
            perplexity_change=found.perplexity_change,
            perplexity_change_stderr=found.perplexity_change_stderr or 0.0,
            top1_agreement=found.top1_agreement or 0.0,
            tasks=self._losses(llm, reference),
            seconds=self.clock() - started,
        )

    def interaction(self, candidate: Candidate) -> Interaction:
        """The probes all at once, then again over what the first round left in the cache."""
        started = self.clock()
        bare = plain(candidate)
        expected = self._greedy(bare)
        llm = self._open(candidate)
        params = SamplingParams(max_tokens=PROBE_TOKENS, temperature=0.0, ignore_eos=True)
        found = [output.outputs[0].token_ids for _ in range(2) for output in llm.generate(list(self.probes), params)]
        num_equal = sum(one == other for one, other in zip(found, expected * 2, strict=True))
        return Interaction(len(found), num_equal, self._agreement(bare), self.clock() - started)

    def _agreement(self, bare: Candidate) -> float:
        """Share of the wide cache's own greedy tokens that the candidate's cache would have chosen as well."""
        wide = replace(bare, kv_cache_dtype=self._wide(bare))
        if wide == bare:
            return 1.0
        texts = self._greedy(wide)
        llm = self._open(bare)
        prompts = [probe + text[:-1] for probe, text in zip(self.probes, texts, strict=True)]
        first = [len(probe) - 1 for probe in self.probes]
        num_equal = 0
        for chunk in llm.logits(prompts, first):
            start = chunk.start - first[chunk.index]
            best = chunk.rows_SV.argmax(axis=1).tolist()
            num_equal += sum(a == b for a, b in zip(best, texts[chunk.index][start:], strict=False))
        return num_equal / sum(len(text) for text in texts)

    def _wide(self, candidate: Candidate) -> KVDtype:
        return self.reference.kv_cache_dtype if candidate.quantization == self.reference.quantization else "bf16"

    def _greedy(self, candidate: Candidate) -> list[list[int]]:
        """One probe after the other."""
        if candidate not in self._texts:
            llm = self._open(candidate)
            params = SamplingParams(max_tokens=PROBE_TOKENS, temperature=0.0, ignore_eos=True)
            self._texts[candidate] = [llm.generate([probe], params)[0].outputs[0].token_ids for probe in self.probes]
        return self._texts[candidate]

    def _llm(self, candidate: Candidate) -> LLM:
        return LLM.of(self._scoring(candidate))

    def _scoring(self, candidate: Candidate) -> LoadedEngine:
        """Made for scoring: what serves only speed is left out."""
        bare = replace(plain(candidate), max_num_seqs=EVALUATION_SEQS, num_threads=candidate.num_threads)
        return self.shelf.engine(bare)

    def _open(self, candidate: Candidate) -> LLM:
        return LLM.of(self.shelf.engine(candidate))

    def _losses(self, llm: LLM, reference: LLM) -> dict[str, float]:
        """Points of accuracy that each task loses."""
        if self._reference_tasks is None:
            self._reference_tasks = [run_task(reference, task) for task in self.tasks]
        own = [run_task(llm, task) for task in self.tasks]
        pairs = zip(own, self._reference_tasks, strict=True)
        return {one.name: 100 * (_accuracy(other) - _accuracy(one)) for one, other in pairs}


def _accuracy(result: TaskResult) -> float:
    return next(result.metrics[name].value for name in ACCURACIES if name in result.metrics)
