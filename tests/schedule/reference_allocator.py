"""The allocator's meaning, with dicts and sets. Block names are never reused, so that nothing can be confused."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import count

Key = tuple[Hashable, tuple[int, ...]]


class ReferenceAllocator:
    def __init__(self, num_blocks: int, size: int) -> None:
        self.num_blocks = num_blocks
        self.size = size
        self.tables: dict[Hashable, list[int]] = {}
        self.owners: dict[int, set[Hashable]] = {}
        self.cached: list[int] = []  # without owner; the one released longest ago first
        self.shared: dict[Key, int] = {}  # (parent block or salt, tokens) -> block, computed or pending
        self.keys: dict[int, Key] = {}
        self.pending: dict[int, Hashable] = {}  # block -> who computes it
        self.parents: dict[Hashable, Hashable] = {}
        self.registered: dict[Hashable, int] = {}
        self._names = count()

    def counts(self) -> tuple[int, int, int]:
        used = len(self.owners)
        return self.num_blocks - used - len(self.cached), len(self.cached), used

    def admit(self, name: Hashable, tokens: Sequence[int], salt: bytes, use_cache: bool) -> int | str:
        """Number of matched blocks, "waits" or "full"."""
        blocks: list[int] = []
        parent: Hashable = salt
        for position in range((len(tokens) - 1) // self.size if use_cache else 0):
            block = self.shared.get((parent, self._chunk(tokens, position)))
            if block is None:
                break
            if block in self.pending:
                return "waits"
            blocks.append(block)
            parent = block
        num_new = self._ceil(len(tokens)) - len(blocks)
        if num_new > self.counts()[0] + len(set(self.cached) - set(blocks)):
            return "full"
        for block in blocks:
            self._share(block, name)
        self.tables[name] = blocks + [self._take(name) for _ in range(num_new)]
        self.parents[name] = parent
        self.registered[name] = len(blocks)
        for position in range(len(blocks), len(tokens) // self.size):
            key = (parent, self._chunk(tokens, position))
            if key not in self.shared:
                self._register(key, self.tables[name][position])
                self.pending[self.tables[name][position]] = name
            parent = self.shared[key]
        return len(blocks)

    def grow(self, name: Hashable, computed: int, num_new: int) -> bool | str:
        """False where blocks are missing, "copied" where the written block was shared, else True."""
        table = self.tables[name]
        position = computed // self.size
        copied = position < len(table) and len(self.owners[table[position]]) > 1
        missing = max(0, self._ceil(computed + num_new) - len(table))
        if missing + copied > self.counts()[0] + len(self.cached):
            return False
        if copied:
            self.owners[table[position]].remove(name)
            table[position] = self._take(name)
        table += [self._take(name) for _ in range(missing)]
        return "copied" if copied else True

    def commit(self, name: Hashable, tokens: Sequence[int], computed: int) -> None:
        for position in range(self.registered[name], computed // self.size):
            block = self.tables[name][position]
            if self.pending.get(block) == name:
                del self.pending[block]
                self.parents[name] = block
                continue
            key = (self.parents[name], self._chunk(tokens, position))
            if key not in self.shared:
                self._register(key, block)
            self.parents[name] = self.shared[key]
        self.registered[name] = computed // self.size

    def fork(self, parent: Hashable, child: Hashable, computed: int) -> None:
        self.tables[child] = self.tables[parent][: self._ceil(computed)]
        for block in self.tables[child]:
            self._share(block, child)
        self.parents[child] = self.parents[parent]
        self.registered[child] = self.registered[parent]

    def release(self, name: Hashable) -> None:
        for block in [block for block, owner in self.pending.items() if owner == name]:
            del self.pending[block]
            del self.shared[self.keys.pop(block)]
        for block in reversed(self.tables.pop(name)):
            self._give_back(block, name)

    def _chunk(self, tokens: Sequence[int], position: int) -> tuple[int, ...]:
        return tuple(tokens[position * self.size : (position + 1) * self.size])

    def _ceil(self, num_tokens: int) -> int:
        return (num_tokens + self.size - 1) // self.size

    def _register(self, key: Key, block: int) -> None:
        self.shared[key] = block
        self.keys[block] = key

    def _share(self, block: int, name: Hashable) -> None:
        if block in self.cached:
            self.cached.remove(block)
        self.owners.setdefault(block, set()).add(name)

    def _take(self, name: Hashable) -> int:
        if self.counts()[0] == 0:
            del self.shared[self.keys.pop(self.cached.pop(0))]
        block = next(self._names)
        self.owners[block] = {name}
        return block

    def _give_back(self, block: int, name: Hashable) -> None:
        self.owners[block].remove(name)
        if not self.owners[block]:
            del self.owners[block]
            if block in self.keys:
                self.cached.append(block)
