"""One suspect at a time, the others in the order of their coming."""

from __future__ import annotations

from vivace.core.events import TokenEvent
from vivace.core.sampling import SamplingParams
from vivace.worker.job import Job
from vivace.worker.messages import Submit
from vivace.worker.probation import Probation


def submission(
    name: str, *, n: int = 1, is_suspect: bool = True, emitted: list[list[int] | None] | None = None
) -> Submit:
    return Submit(Job(name, [1], SamplingParams(n=n, seed=1)), emitted, is_suspect)


def begun(probation: Probation) -> str:
    names = ""
    while (one := probation.pop()) is not None:
        names += one.job.request_id
    return names


def event(name: str, index: int = 0) -> TokenEvent:
    return TokenEvent(name, index, 5, None)


def test_without_suspects_everyone_begins() -> None:
    probation = Probation()
    for name in "abc":
        probation.push(submission(name, is_suspect=False))
    assert begun(probation) == "abc"
    assert not probation.is_on


def test_a_trial_ends_when_every_continuation_brought_something() -> None:
    probation = Probation()
    probation.push(submission("a", n=3, emitted=[[1], None, [2]]))
    probation.push(submission("b"))
    probation.push(submission("n", is_suspect=False))
    assert begun(probation) == "a"
    probation.hear([event("a", 0), event("x", 2)])
    assert (begun(probation), len(probation), probation.is_on) == ("", 2, True)
    probation.hear([event("a", 2)])
    assert begun(probation) == "b"
    probation.refuse("x")
    assert begun(probation) == ""
    probation.refuse("b")
    assert begun(probation) == "n"
    assert not probation.is_on


def test_who_waits_can_leave_or_end_a_continuation() -> None:
    probation = Probation()
    for one in (submission("a"), submission("b"), submission("c", n=2), submission("d", n=2, emitted=[[3], [4]])):
        probation.push(one)
    assert begun(probation) == "a"
    assert not probation.drop("a")
    assert not probation.stop("a", 0)
    assert probation.drop("b")
    assert probation.stop("c", 0)
    assert probation.stop("c", 1)
    assert not probation.drop("c")
    assert probation.stop("d", 1)
    probation.hear([event("a")])
    last = probation.pop()
    assert last is not None
    assert (last.job.request_id, last.emitted) == ("d", [[3], None])
    probation.hear([event("d")])
    assert (begun(probation), len(probation), probation.is_on) == ("", 0, False)
