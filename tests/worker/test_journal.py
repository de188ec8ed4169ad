"""Who is let into the engine, when, and who is to blame."""

from __future__ import annotations

import random

from vivace.core.events import TokenEvent, TokenLogprobs
from vivace.core.sampling import SamplingParams
from vivace.worker.job import Job
from vivace.worker.journal import Entry, Journal
from vivace.worker.probation import Probation
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


def test_everyone_is_let_in_once_and_suspects_first() -> None:
    journal = Journal()
    add(journal, "a")
    add(journal, "u", priority=-1)
    add(journal, "s", n=2)
    add(journal, "r").stream.deliver([TokenEvent("r", 0, 1, None)])
    assert submit(journal) == "ausr"
    assert submit(journal) == ""
    assert (journal.num_present, journal.num_held, len(journal)) == (4, 0, 4)
    assert not journal.has_suspects
    assert journal.crash() is None
    add(journal, "n", priority=-5)
    assert (journal.num_present, journal.num_held) == (0, 5)
    assert submit(journal) == "ruasn"  # "r" has a reader who waits for the next token
    assert [entry.is_suspect for entry in journal] == [True, True, True, True, False]


def test_the_first_that_is_not_cleared_is_guilty() -> None:
    journal = Journal()
    a, b, c = add(journal, "a"), add(journal, "b", n=2), add(journal, "c")
    submit(journal)
    journal.crash()
    submit(journal)
    journal.progress(a, {0})
    journal.progress(b, {1})
    assert journal.crash() is b
    journal.remove(b)
    submit(journal)
    journal.progress(a, {0})
    journal.progress(c, {0})
    assert not journal.has_suspects
    assert journal.crash() is None  # both had come further: suspects anew, no more
    submit(journal)
    assert journal.crash() is a
    journal.remove(a)
    journal.remove(c)
    assert (len(journal), journal.num_present, journal.num_held) == (0, 0, 0)
    assert journal.crash() is None


def test_while_a_suspect_that_left_may_be_in_the_engine_nobody_else_is_guilty() -> None:
    for is_over in (False, True):
        journal = Journal()
        a, b = add(journal, "a"), add(journal, "b")
        submit(journal)
        journal.crash()
        submit(journal)
        journal.leave(a)
        if is_over:
            journal.hear_of_unknown("a")
        assert journal.crash() is (b if is_over else None)
    waiting = Journal()
    a, b = add(waiting, "a"), add(waiting, "b")
    submit(waiting)
    waiting.crash()
    submit(waiting)
    waiting.leave(b)  # it had not begun
    assert waiting.crash() is a


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
    """Journal and probation around a simulated engine, which dies when it is to bring the poison's fourth token.

    Reports are read late, but before the news of the death.
    """
    for seed in range(300):
        chance = random.Random(seed)
        journal = Journal()
        for name in ("0", "1", "2", "poison", "3", "4"):
            add(journal, name)
        culprits = []
        while len(journal):
            live_until_death(journal, chance)
            if len(journal):
                culprits.append(guilty := journal.crash())
                if guilty is not None:
                    journal.remove(guilty)
        assert [entry.stream.job.request_id if entry else None for entry in culprits] == [None, "poison"], (
            f"seed {seed}"
        )


def live_until_death(journal: Journal, chance: random.Random) -> None:
    """One engine's life: each request ends with its sixth token; its journal says how many it has."""
    probation, num_tokens, unread = Probation(), dict[str, int](), list[TokenEvent]()
    for entry in journal.release():
        entry.was_submitted = True
        probation.push(entry.submission())
    while len(journal):
        while (submission := probation.pop()) is not None:
            num_tokens[submission.job.request_id] = len((submission.emitted or [[]])[0] or [])
        running = [name for name, count in num_tokens.items() if count < 6]
        planned = chance.sample(running, chance.randint(1, len(running))) if running else []
        if "poison" in planned and num_tokens["poison"] == 3:
            read(journal, unread)
            return
        for name in planned:
            num_tokens[name] += 1
            unread.append(TokenEvent(name, 0, 1, None, "length" if num_tokens[name] == 6 else None))
        probation.hear([event for event in unread if event.request_id in planned])
        if chance.random() < 0.5:
            read(journal, unread)


def read(journal: Journal, unread: list[TokenEvent]) -> None:
    for event in unread:
        entry = journal.find(event.request_id)
        assert entry is not None
        entry.stream.deliver([event])
        if event.finish is not None:
            journal.remove(entry)
        else:
            journal.progress(entry, {event.index})
    unread.clear()
