"""The live requests: which of them the engine has, and who is to blame when it dies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count

from vivace.worker.messages import Submit
from vivace.worker.stream import TokenStream


@dataclass(eq=False, slots=True)
class Entry:
    """A live request. `is_present`: the engine has it now."""

    stream: TokenStream
    number: int  # order of arrival
    is_present: bool = False
    is_suspect: bool = False  # present when the engine died, and no token since
    was_submitted: bool = False
    on_trial: set[int] = field(default_factory=set)  # continuations without a token since the trial began

    def submission(self) -> Submit:
        """The command that begins the request, or continues it in a new engine."""
        job, stream = self.stream.job, self.stream
        if not self.was_submitted:
            return Submit(job)
        if stream.prompt_logprobs is not None:
            job = replace(job, params=replace(job.params, prompt_logprobs=None))  # they are here already
        return Submit(job, stream.emitted)


class Journal:
    """Hands requests to the engine in order, and after its death one suspect at a time.

    When the engine dies, every request in it is a suspect. The next engine gets the first suspect alone; once each of
    its continuations has a new token (or ended) it is cleared and the next one follows, while those cleared run on.
    Should the engine die again, the one on trial was in it both times and had come no further: it is guilty, alone.
    A trial costs two steps for each suspect, and holds new requests back meanwhile.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._held: list[Entry] = []  # not in the engine, the next one first
        self._trial: Entry | None = None
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    @property
    def num_held(self) -> int:
        return len(self._held)

    @property
    def num_present(self) -> int:
        return len(self._entries) - len(self._held)

    @property
    def is_trying(self) -> bool:
        """Whether a suspect is on trial."""
        return self._trial is not None

    def find(self, request_id: str) -> Entry | None:
        return self._entries.get(request_id)

    def add(self, stream: TokenStream) -> None:
        entry = Entry(stream, next(self._numbers))
        self._entries[stream.job.request_id] = entry
        self._held.append(entry)

    def remove(self, entry: Entry) -> None:
        """The request has ended."""
        del self._entries[entry.stream.job.request_id]
        if not entry.is_present:
            self._held.remove(entry)
        if self._trial is entry:
            self._trial = None

    def release(self) -> list[Entry]:
        """Those that the engine may get now, in order; they count as present from here on."""
        released = []
        while self._held and self._trial is None:
            entry = self._held.pop(0)
            entry.is_present = True
            released.append(entry)
            if entry.is_suspect:
                self._trial = entry
                entry.on_trial = {index for index, tokens in enumerate(entry.stream.emitted) if tokens is not None}
        return released

    def progress(self, entry: Entry, indices: set[int]) -> bool:
        """These continuations moved on. True where that ends the trial, so that others may be released."""
        if self._trial is not entry:
            return False
        entry.on_trial -= indices
        if entry.on_trial:
            return False
        entry.is_suspect = False
        self._trial = None
        return True

    def crash(self) -> Entry | None:
        """The engine is dead: nobody is present any more. Returns the guilty one, where there is one."""
        guilty, self._trial = self._trial, None
        for entry in self._entries.values():
            if entry.is_present:
                entry.is_present, entry.is_suspect = False, True
                entry.stream.drop_partial_scores()
        self._held = sorted(self._entries.values(), key=_order)
        return guilty


def _order(entry: Entry) -> tuple[bool, int, int]:
    return not entry.is_suspect, entry.stream.job.priority, entry.number
