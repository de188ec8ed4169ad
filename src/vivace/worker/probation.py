"""After a crash: suspects begin one at a time, so that the next crash has one culprit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from vivace.core.events import TokenEvent
from vivace.worker.messages import Submit


class Probation:
    """The order in which submissions begin: that of their coming, and none while a suspect is on trial.

    A trial begins with the suspect and ends when each of its continuations brought something: one step where the
    context fits one. Those that have begun run on beside it.
    """

    def __init__(self) -> None:
        self._waiting: deque[Submit] = deque()
        self._suspect: str | None = None
        self._silent: set[int] = set()  # the suspect's continuations that brought nothing yet

    def __len__(self) -> int:
        """Submissions that have not begun."""
        return len(self._waiting)

    @property
    def is_on(self) -> bool:
        return self._suspect is not None

    def push(self, submission: Submit) -> None:
        self._waiting.append(submission)

    def pop(self) -> Submit | None:
        """The next submission that may begin, if there is one."""
        if self._suspect is not None or not self._waiting:
            return None
        submission = self._waiting.popleft()
        if submission.is_suspect:
            self._suspect = submission.job.request_id
            emitted = submission.emitted or [[]] * submission.job.params.n
            self._silent = {index for index, tokens in enumerate(emitted) if tokens is not None}
        return submission

    def hear(self, events: Iterable[TokenEvent]) -> None:
        """What a step brought."""
        self._silent -= {event.index for event in events if event.request_id == self._suspect}
        if not self._silent:
            self._suspect = None

    def refuse(self, request_id: str) -> None:
        """This submission was popped but did not begin."""
        if self._suspect == request_id:
            self._suspect = None

    def drop(self, request_id: str) -> bool:
        """Forget a submission. False where it is not (or no more) among those that wait."""
        for submission in self._waiting:
            if submission.job.request_id == request_id:
                self._waiting.remove(submission)
                return True
        return False

    def stop(self, request_id: str, index: int) -> bool:
        """End one continuation of a submission that waits. False where it is none of them."""
        for submission in self._waiting:
            if submission.job.request_id == request_id:
                submission.emitted = submission.emitted or [[] for _ in range(submission.job.params.n)]
                submission.emitted[index] = None
                if all(tokens is None for tokens in submission.emitted):
                    self._waiting.remove(submission)
                return True
        return False
