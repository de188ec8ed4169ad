"""An engine without a model: it writes into every KV slot which prefix it belongs to, and checks every read.

The next token is a function of the whole prefix and the seed, so that the output does not depend on the schedule
unless a block was shared, copied or overwritten wrongly.
"""

from __future__ import annotations

from sequences import make_fork

from vivace.core.sequence import Sequence, SequenceState
from vivace.core.step import StepPlan
from vivace.schedule import Scheduler

END_TOKEN = 0
VOCABULARY = 5


class Prefixes:
    """A number for every (salt, tokens) that was ever seen: equal numbers mean equal prefixes."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}

    def after(self, before: object, token: int) -> int:
        return self._numbers.setdefault((before, token), len(self._numbers))

    def of(self, sequence: Sequence) -> list[int]:
        """One number for each token of the sequence."""
        numbers: list[int] = []
        before: object = sequence.cache_salt
        for token in sequence.tokens:
            before = self.after(before, token)
            numbers.append(before)  # type: ignore[arg-type]
        return numbers


def next_token(sequence: Sequence) -> int:
    value = sequence.seed * 7 + sequence.index * 3
    for token in sequence.tokens:
        value = (value * 31 + token + 1) % 1_000_003
    return END_TOKEN if value % 29 == 0 else 1 + value % (VOCABULARY - 1)


def is_done(sequence: Sequence) -> bool:
    return sequence.tokens[-1] == END_TOKEN or sequence.num_output == sequence.params.max_tokens


def outputs_alone(sequence: Sequence, index: int) -> list[int]:
    """What the sequence's continuation gives when nothing else exists."""
    alone = make_fork(sequence, index)
    while True:
        alone.tokens.append(next_token(alone))
        if is_done(alone):
            return alone.output_tokens()


class SimulatedEngine:
    def __init__(self, scheduler: Scheduler, *, max_num_seqs: int, max_num_batched_tokens: int) -> None:
        self.scheduler = scheduler
        self.manager = scheduler.block_manager
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.finished: list[Sequence] = []
        self.forks: list[Sequence] = []
        self.started: list[Sequence] = []  # in order of first admission
        self.num_operations = 0
        self.num_copies = 0
        self.num_computed = 0
        self._prefixes = Prefixes()
        self._slots: dict[tuple[int, int], int] = {}
        self._tables: dict[int, list[int]] = {}

    def add(self, sequence: Sequence) -> None:
        self.scheduler.add(sequence)
        self.num_operations += 1

    def abort(self, sequence: Sequence) -> None:
        self.scheduler.abort(sequence)
        self.num_operations += 1
        self._check_integrity()

    def step(self) -> StepPlan:
        plan = self.scheduler.plan()
        self._check_plan(plan)
        self._note_started(plan)
        self._compute(plan)
        self.scheduler.commit(plan)
        self._check_integrity()
        for scheduled in plan.scheduled:
            if scheduled.samples:
                self._sample(scheduled.sequence)
        self._check_integrity()
        self.num_operations += len(plan.scheduled)
        return plan

    def run(self, max_steps: int) -> int:
        """Step until nothing is left. Returns the number of steps."""
        steps = 0
        while self.scheduler.has_unfinished:
            assert steps < max_steps, "somebody starves"
            assert self.step(), "nothing is planned although sequences are left"
            steps += 1
        assert self.manager.num_used == 0
        return steps

    def _sample(self, sequence: Sequence) -> None:
        children = [make_fork(sequence, index) for index in range(1, 1 + sequence.num_forks)]
        for child in children:
            child.tokens.append(next_token(child))
            self.scheduler.fork(sequence, child)
            self.num_operations += 1
        self.forks += children
        sequence.tokens.append(next_token(sequence))
        for done in filter(is_done, [sequence, *children]):
            self.scheduler.finish(done)
            self.finished.append(done)
            self.num_operations += 1

    def _check_plan(self, plan: StepPlan) -> None:
        sequences = [scheduled.sequence for scheduled in plan.scheduled]
        assert len(set(sequences)) == len(sequences) <= self.max_num_seqs
        rows = {sequence.row for sequence in sequences}
        assert len(rows) == len(sequences)
        assert rows <= set(range(self.max_num_seqs))
        assert plan.num_tokens == sum(scheduled.num_new for scheduled in plan.scheduled)
        assert plan.num_tokens <= self.max_num_batched_tokens
        assert all(sequence.row >= 0 for sequence in plan.table_resets)
        destinations = [destination for _, destination in plan.block_copies]
        tables = [block for sequence in sequences for block in sequence.block_ids]
        assert all(tables.count(destination) == 1 for destination in destinations)
        for sequence in plan.preempted:
            assert (sequence.state, sequence.row, sequence.block_ids) == (SequenceState.WAITING, -1, [])
        for scheduled in plan.scheduled:
            sequence = scheduled.sequence
            assert sequence.state is SequenceState.RUNNING
            assert scheduled.start == sequence.num_computed
            assert 1 <= scheduled.num_new <= sequence.num_pending
            assert scheduled.samples == (scheduled.num_new == sequence.num_pending)

    def _note_started(self, plan: StepPlan) -> None:
        for sequence in plan.table_resets:
            if sequence.index == 0 and sequence not in self.started:
                self.started.append(sequence)

    def _compute(self, plan: StepPlan) -> None:
        size = self.manager.block_size
        for source, destination in plan.block_copies:
            self.num_copies += 1
            for slot in range(size):
                self._slots[destination, slot] = self._slots.get((source, slot), -1)
        for sequence in plan.table_resets:
            self._tables[sequence.row] = []
        prefixes = [self._prefixes.of(scheduled.sequence) for scheduled in plan.scheduled]
        for scheduled, numbers in zip(plan.scheduled, prefixes, strict=True):
            sequence = scheduled.sequence
            table = self._tables[sequence.row]
            table += sequence.block_ids[len(table) :]
            assert table == sequence.block_ids, "a block table changed without a reset"
            read = [self._slots[table[p // size], p % size] for p in range(scheduled.start)]
            assert read == numbers[: scheduled.start], "a cached token is not the sequence's own"
        written: set[tuple[int, int]] = set()
        for scheduled, numbers in zip(plan.scheduled, prefixes, strict=True):
            table = scheduled.sequence.block_ids
            for position in range(scheduled.start, scheduled.start + scheduled.num_new):
                slot = (table[position // size], position % size)
                assert slot not in written, "two sequences write one slot"
                written.add(slot)
                self._slots[slot] = numbers[position]
        self.num_computed += len(written)

    def _check_integrity(self) -> None:
        manager = self.manager
        manager.check_integrity()
        assert manager.num_free + manager.num_cached + manager.num_used == manager.num_blocks
