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
    is_suspect: bool = False  # present when the engine died, and it brought nothing since
    was_submitted: bool = False
    silent: set[int] = field(default_factory=set)  # a suspect's continuations that brought nothing since

    def submission(self) -> Submit:
        """The command that begins the request, or continues it in a new engine."""
        job, stream = self.stream.job, self.stream
        if not self.was_submitted:
            return Submit(job)
        if stream.prompt_logprobs is not None:
            job = replace(job, params=replace(job.params, prompt_logprobs=None))  # they are here already
        return Submit(job, stream.emitted, self.is_suspect)


class Journal:
    """Which requests the engine gets, in which order, and who is to blame when it dies.

    When the engine dies, every request in it is a suspect. The next engine gets the suspects first and begins one at
    a time (`Probation`): each is cleared once all its continuations brought something, and then runs on. Should the
    engine die before that, the first that is not cleared was in it both times and had come no further: it is guilty,
    alone. The kernel delivers what a process sent before its death, so front and engine agree on who that is.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._held: list[Entry] = []  # for an engine that is not there yet, the next one first
        self._suspects: list[Entry] = []  # in the engine, not cleared, the next one first
        self._leaver: str | None = None  # the suspect on trial when its reader left; the engine may still have it
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
    def has_suspects(self) -> bool:
        return bool(self._suspects)

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
        if entry in self._suspects:
            self._suspects.remove(entry)

    def leave(self, entry: Entry) -> None:
        """The request has ended by the front's decision. Until the engine says so too, its trial goes on: should the
        engine die now, nobody else is to blame."""
        if self._suspects and self._suspects[0] is entry:
            self._leaver = entry.stream.job.request_id
        self.remove(entry)

    def hear_of_unknown(self, request_id: str) -> None:
        """The engine brought something of a request that is no more."""
        if self._leaver == request_id:
            self._leaver = None

    def release(self) -> list[Entry]:
        """Those that the engine has to get, in order; they count as present from here on."""
        released, self._held = self._held, []
        for entry in released:
            entry.is_present = True
            if entry.is_suspect:
                self._suspects.append(entry)
                entry.silent = {index for index, tokens in enumerate(entry.stream.emitted) if tokens is not None}
        return released

    def progress(self, entry: Entry, indices: set[int]) -> None:
        """These continuations of a suspect brought something, or ended."""
        entry.silent -= indices
        if not entry.silent and entry.is_suspect:
            entry.is_suspect = False
            self._suspects.remove(entry)

    def crash(self) -> Entry | None:
        """The engine is dead: nobody is present any more. Returns the guilty one, where there is one."""
        guilty = self._suspects[0] if self._suspects and self._leaver is None else None
        self._suspects, self._leaver = [], None
        for entry in self._entries.values():
            if entry.is_present:
                entry.is_present, entry.is_suspect = False, True
                entry.stream.drop_partial_scores()
                entry.stream.num_restarts += 1
        self._held = sorted(self._entries.values(), key=_order)
        return guilty


def _order(entry: Entry) -> tuple[bool, bool, int, int]:
    """Suspects first, and of them those whose readers have begun to read."""
    has_begun = any(entry.stream.emitted)
    return not entry.is_suspect, not has_begun, entry.stream.job.priority, entry.number
