"""Who is let into the engine, when, and who is to blame."""

from __future__ import annotations

import random

from vivace.core.events import TokenEvent, TokenLogprobs
from vivace.core.sampling import SamplingParams
from vivace.worker.job import Job
from vivace.worker.journal import Entry, Journal
from vivace.worker.stream import TokenStream


class NoOwner:
    def end_early(self, stream: TokenStream) -> None: ...

    def end_continuation(self, stream: TokenStream, index: int, reason: str) -> None: ...


def add(journal: Journal, name: str, *, n: int = 1, priority: int = 0, scores: int | None = None) -> Entry:
    params = SamplingParams(n=n, seed=1, prompt_logprobs=scores)
    journal.add(TokenStream(Job(name, [1, 2], params, priority), NoOwner(), 0.0))
    entry = journal.find(name)
    assert entry is not None
    return entry


def names(entries: list[Entry]) -> str:
    return "".join(entry.stream.job.request_id for entry in entries)


def submit(journal: Journal) -> str:
    released = journal.release()
    for entry in released:
        entry.was_submitted = True
    return names(released)


def test_before_a_crash_everyone_is_let_in() -> None:
    journal = Journal()
    for name in "abc":
        add(journal, name)
    assert submit(journal) == "abc"
    assert submit(journal) == ""
    assert (journal.num_present, journal.num_held, len(journal)) == (3, 0, 3)


def test_after_a_crash_suspects_come_one_by_one_and_new_ones_last() -> None:
    journal = Journal()
    first, urgent, several = add(journal, "a"), add(journal, "u", priority=-1), add(journal, "s", n=2)
    submit(journal)
    assert journal.crash() is None
    add(journal, "n", priority=-5)
    assert submit(journal) == "u"
    assert submit(journal) == ""
    assert not journal.progress(first, {0})  # not on trial
    assert journal.progress(urgent, {0})
    assert submit(journal) == "a"
    assert journal.progress(first, {0})
    assert submit(journal) == "s"
    assert not journal.progress(several, {1})
    assert submit(journal) == ""
    assert journal.progress(several, {0})
    assert submit(journal) == "n"


def test_the_one_on_trial_is_guilty_and_the_cleared_are_suspects_anew() -> None:
    journal = Journal()
    a, b = add(journal, "a"), add(journal, "b")
    add(journal, "c")
    submit(journal)
    journal.crash()
    submit(journal)
    journal.progress(a, {0})
    assert submit(journal) == "b"
    assert journal.crash() is b
    journal.remove(b)
    assert submit(journal) == "a"
    assert journal.crash() is a
    journal.remove(a)
    assert (submit(journal), submit(journal)) == ("c", "")
    journal.remove(next(iter(journal)))
    assert (len(journal), journal.num_present, journal.num_held) == (0, 0, 0)
    assert journal.crash() is None


def test_one_that_ends_on_trial_or_before_it_lets_the_next_in() -> None:
    journal = Journal()
    a, b = add(journal, "a"), add(journal, "b")
    add(journal, "c")
    submit(journal)
    journal.crash()
    submit(journal)
    journal.remove(b)
    journal.remove(a)
    assert submit(journal) == "c"


def test_a_submission_continues_what_was_emitted() -> None:
    journal = Journal()
    entry = add(journal, "a", n=2, scores=0)
    assert entry.submission().emitted is None
    submit(journal)
    stream = entry.stream
    stream.add_scores([None])
    journal.crash()
    assert entry.submission().emitted == [[], []]
    assert entry.submission().job.params.prompt_logprobs == 0
    stream.add_scores([None, TokenLogprobs(2, -1.0, 1, (), ())])  # both anew
    assert stream.prompt_logprobs is not None
    stream.deliver([TokenEvent("a", 0, 7, None), TokenEvent("a", 1, 8, None, "stop")])
    stream.deliver([TokenEvent("a", 0, 9, None), TokenEvent("a", 1, 9, None)])
    submission = entry.submission()
    assert submission.emitted == [[7, 9], None]
    assert (submission.job.params.prompt_logprobs, submission.job.params.n) == (None, 2)


def test_random_lives_find_the_guilty_one() -> None:
    """A simulated engine that dies whenever it is to advance the poisoned request, at its third token."""
    for seed in range(200):
        chance = random.Random(seed)
        journal = Journal()
        poison = add(journal, "poison")
        tokens = dict.fromkeys([poison, *(add(journal, f"{number}") for number in range(8))], 0)
        num_crashes = 0
        while len(journal):
            submit(journal)
            present = [entry for entry in journal if entry.is_present]
            planned = chance.sample(present, chance.randint(1, len(present)))
            if poison in planned and tokens[poison] == 3:
                num_crashes += 1
                guilty = journal.crash()
                if guilty is not None:
                    assert guilty is poison, f"seed {seed}"
                    journal.remove(guilty)
                continue
            for entry in planned:
                tokens[entry] += 1
                journal.progress(entry, {0})
                if tokens[entry] == 6:
                    journal.remove(entry)
        assert num_crashes == 2
        assert all(count == 6 for entry, count in tokens.items() if entry is not poison)
