"""What has been measured, kept as it comes: an interrupted search goes on, a second one starts from what is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

Record = dict[str, Any]


class Memory(Protocol):
    """Keeps values by kind and key, beyond the life of the process."""

    def remember(self, kind: str, key: str, value: Record) -> None: ...

    def recall(self, kind: str) -> dict[str, Record]: ...


class Notebook:
    """One search's entries. `identity` is what every figure depends on: model, machine, package, workload."""

    def __init__(self, memory: Memory, identity: Mapping[str, Any]) -> None:
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        self.kind = f"optimize {hashlib.sha256(text.encode()).hexdigest()[:24]}"
        self._memory = memory
        self._entries = memory.recall(self.kind)
        self.num_known = len(self._entries)

    def entry(self, key: str, make: Callable[[], Record]) -> Record:
        """The entry of that key, made and kept where it is missing."""
        known = self._entries.get(key)
        if known is None:
            known = make()
            self._entries[key] = known
            self._memory.remember(self.kind, key, known)
        return known

    def known(self, key: str) -> Record | None:
        return self._entries.get(key)


class Forgetful:
    """A memory for one run."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, Record]] = {}

    def remember(self, kind: str, key: str, value: Record) -> None:
        self._kinds.setdefault(kind, {})[key] = value

    def recall(self, kind: str) -> dict[str, Record]:
        return dict(self._kinds.get(kind, {}))


class Oblivious:
    """Keeps what comes for later runs, and recalls nothing of earlier ones."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def remember(self, kind: str, key: str, value: Record) -> None:
        self._memory.remember(kind, key, value)

    def recall(self, kind: str) -> dict[str, Record]:  # noqa: ARG002
        return {}
