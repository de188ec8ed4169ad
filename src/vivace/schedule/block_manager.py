"""Which sequence owns which KV blocks: admission with prefix sharing, growth, forks, release."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vivace.core.errors import ConfigError, EngineError
from vivace.core.history import PrefixMiss
from vivace.core.sequence import Sequence
from vivace.schedule.block_pool import BlockPool
from vivace.schedule.prefix_index import NO_PARENT, BlockHash, PrefixEntry, PrefixIndex, chained_hash
from vivace.schedule.prefix_miss import ID_BYTES, explained_miss


@dataclass(slots=True)
class PrefixMatch:
    """The longest prefix of a sequence that is in the cache, and the rest of it that is being computed.

    `awaited` is the last matching block that a running sequence computes right now: who waits for it can
    share everything up to it.
    """

    blocks: list[int] = field(default_factory=list)
    parent: int = NO_PARENT  # identity of the last matched entry
    awaited: PrefixEntry | None = None


@dataclass(slots=True)
class _Chain:
    """An admitted sequence's place in the prefix index: its last registered entry, and the pending entries
    that it owns, the first of them for block `first_expected`."""

    parent: int
    first_expected: int = 0
    expected: list[PrefixEntry] = field(default_factory=list)


class BlockManager:
    """Blocks of all admitted sequences.

    A sequence's `block_ids` only ever grow at the end while it is admitted, with one exception: `grow` replaces
    the block of its next token when that block is shared (copy-on-write).
    A block with more than one reference is never written.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        enable_prefix_caching: bool = True,
        *,
        block_hash: BlockHash = chained_hash,
    ) -> None:
        if block_size < 1:
            raise ConfigError(f"block_size must be at least 1, got {block_size}")
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self.num_prefix_queries = 0  # tokens looked up at admission
        self.num_prefix_hits = 0  # tokens of them found
        self._index = PrefixIndex(block_hash, ID_BYTES * block_size)
        self._pool = BlockPool(num_blocks, self._index.evict)
        self._references = self._pool.references
        self._chains: dict[Sequence, _Chain] = {}

    @property
    def num_blocks(self) -> int:
        return self._pool.num_blocks

    @property
    def references(self) -> list[int]:
        """How many sequences use each block: kept current, for reading only."""
        return self._references

    @property
    def num_free(self) -> int:
        """Blocks without content."""
        return self._pool.num_free

    @property
    def num_cached(self) -> int:
        """Blocks that no sequence uses but whose content can still be shared."""
        return self._pool.num_cached

    @property
    def num_used(self) -> int:
        return self._pool.num_used

    @property
    def num_available(self) -> int:
        """Blocks that can be handed out: free and cached ones."""
        return self._pool.num_available

    @property
    def usage(self) -> float:
        """Share of the blocks that sequences use, 0 to 1."""
        return self._pool.num_used / self._pool.num_blocks

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def census(self, first: int, end: int) -> tuple[int, int, int, int]:
        """How many of the blocks [first, end) are free, cached, used by one sequence, and used by several."""
        return self._pool.census(first, end)

    def match(self, sequence: Sequence) -> PrefixMatch:
        """Look the sequence up in the prefix index. Nothing is reserved.

        Its last token is never matched, because the logits after it are wanted, nor are those from `logits_from` on.
        """
        match = PrefixMatch()
        if not (self.enable_prefix_caching and sequence.use_prefix_cache):
            return match
        for position in range(self._num_matchable(sequence)):
            parent = match.parent if match.awaited is None else match.awaited.identity
            entry = self._index.find(self._hash(sequence, position), parent, self._content(sequence, position))
            if entry is None:
                break
            if entry.is_pending:
                match.awaited = entry
            elif match.awaited is None:
                match.blocks.append(entry.block)
                match.parent = entry.identity
            else:  # complete after pending: a slower sequence computes the parent again
                break
        return match

    def take_woken(self) -> list[Sequence]:
        """Sequences in `waiters` of an entry that is no longer pending, since the last call."""
        woken = self._index.woken
        if woken:
            self._index.woken = []
        return woken

    def can_admit(self, sequence: Sequence, match: PrefixMatch, num_reserved: int = 0) -> bool:
        """Whether all known tokens of the sequence find room, with `num_reserved` blocks to spare."""
        num_new = self.num_blocks_for(len(sequence.tokens)) - len(match.blocks)
        num_revived = sum(self._references[block] == 0 for block in match.blocks)
        return num_new + num_revived + num_reserved <= self._pool.num_available

    def admit(self, sequence: Sequence, match: PrefixMatch) -> None:
        """Give the sequence the matched blocks and new ones for all its other known tokens.

        Sets `num_computed` and `num_cached` to the number of matched tokens, and announces the full blocks that
        the sequence is going to compute, so that others can wait for them.
        """
        if sequence in self._chains:
            raise EngineError(f"request {sequence.request_id!r} was admitted twice")
        for block in match.blocks:
            self._pool.share(block)
        if sequence.history.miss is None:
            sequence.history.miss = self._miss(sequence, match)
        num_new = self.num_blocks_for(len(sequence.tokens)) - len(match.blocks)
        sequence.block_ids = match.blocks + self._pool.allocate(num_new)
        sequence.num_registered = len(match.blocks)
        sequence.num_computed = sequence.num_cached = len(match.blocks) * self.block_size
        chain = self._chains[sequence] = _Chain(match.parent)
        if self.enable_prefix_caching:
            self._announce(sequence, chain)
            if sequence.use_prefix_cache:
                self.num_prefix_queries += len(sequence.tokens)
                self.num_prefix_hits += sequence.num_cached

    def has_room(self, sequence: Sequence, num_new: int) -> bool:
        """Whether `num_new` tokens can be computed without `grow`. Called for every row of every step."""
        computed = sequence.num_computed
        blocks = sequence.block_ids
        size = self.block_size
        return computed + num_new <= len(blocks) * size and self._references[blocks[computed // size]] == 1

    def can_grow(self, sequence: Sequence, num_new: int) -> bool:
        num_missing = self.num_blocks_for(sequence.num_computed + num_new) - len(sequence.block_ids)
        return max(num_missing, 0) + self._writes_shared(sequence) <= self._pool.num_available

    def grow(self, sequence: Sequence, num_new: int) -> tuple[int, int] | None:
        """Make room for `num_new` tokens after the computed ones.

        Returns the (source, destination) block copy that must happen before the step where the block of the
        next token was shared; the sequence's `block_ids` then hold the destination in its place.
        """
        copy = None
        if self._writes_shared(sequence):
            position = sequence.num_computed // self.block_size
            source = sequence.block_ids[position]
            destination = self._pool.allocate(1)[0]
            self._pool.release(source)
            sequence.block_ids[position] = destination
            copy = (source, destination)
        num_missing = self.num_blocks_for(sequence.num_computed + num_new) - len(sequence.block_ids)
        if num_missing > 0:
            sequence.block_ids += self._pool.allocate(num_missing)
        return copy

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Let the child share every computed block of the parent. Whoever writes the partial last one first
        gets a copy of it, from `grow`."""
        chain = self._chains[parent]
        if chain.expected or child in self._chains:
            raise EngineError(f"request {parent.request_id!r} was forked before its prompt was computed, or twice")
        child.block_ids = parent.block_ids[: self.num_blocks_for(parent.num_computed)]
        for block in child.block_ids:
            self._pool.share(block)
        child.num_computed = parent.num_computed
        child.num_cached = parent.num_cached
        child.num_registered = parent.num_registered
        child.block_hashes = parent.block_hashes[: parent.num_registered]
        self._chains[child] = _Chain(chain.parent)

    def commit(self, sequence: Sequence) -> None:
        """Register the blocks that `num_computed` has filled since the last call."""
        num_full = sequence.num_computed // self.block_size
        if self.enable_prefix_caching:
            chain = self._chains[sequence]
            for position in range(sequence.num_registered, num_full):
                self._register(sequence, chain, position)
        sequence.num_registered = num_full

    def release(self, sequence: Sequence) -> None:
        """Take all blocks back. What the sequence had announced but not computed is dropped."""
        chain = self._chains.pop(sequence)
        for entry in chain.expected:
            self._index.drop(entry)
        for block in reversed(sequence.block_ids):
            self._pool.release(block)
        sequence.block_ids = []
        sequence.num_computed = sequence.num_registered = 0

    def check_integrity(self) -> None:
        """Compare pool, index and the sequences' tables with each other. Raises `EngineError`."""
        self._pool.check_integrity()
        owners = Counter(block for sequence in self._chains for block in sequence.block_ids)
        indexed = self._index.blocks
        for block, references in enumerate(self._references):
            if owners[block] != references:
                raise EngineError(f"KV block {block} has {references} references but {owners[block]} owners")
            if self._pool.is_cached(block) != (block in indexed):
                raise EngineError(f"KV block {block}: pool and prefix index disagree whether it is cached")

    def _num_matchable(self, sequence: Sequence) -> int:
        """Whole blocks before the last token, or before the first one whose logits are wanted."""
        last = len(sequence.tokens) - 1
        return (last if sequence.logits_from is None else min(last, sequence.logits_from)) // self.block_size

    def _miss(self, sequence: Sequence, match: PrefixMatch) -> PrefixMiss:
        """Why no more than `match` was found."""
        block = len(match.blocks)
        if not self.enable_prefix_caching:
            return PrefixMiss(block, "off")
        if not sequence.use_prefix_cache:
            return PrefixMiss(block, "unused")
        if block >= self._num_matchable(sequence):
            return PrefixMiss(block, "complete" if block else "short")
        block_hash, content = self._hash(sequence, block), self._content(sequence, block)
        return explained_miss(self._index, block, match.parent, block_hash, content, self.block_size)

    def _announce(self, sequence: Sequence, chain: _Chain) -> None:
        """Add pending entries for the known full blocks. Those that the index has already (the last block of a
        full match, or all of them where the sequence may not use the cache) stay as they are."""
        parent = chain.parent
        for position in range(sequence.num_registered, len(sequence.tokens) // self.block_size):
            block_hash, content = self._hash(sequence, position), self._content(sequence, position)
            entry = None if chain.expected else self._index.find(block_hash, parent, content)
            if entry is None:
                entry = self._index.expect(block_hash, parent, content)
                if not chain.expected:
                    chain.first_expected = position
                chain.expected.append(entry)
            parent = entry.identity

    def _register(self, sequence: Sequence, chain: _Chain, position: int) -> None:
        if chain.expected and position == chain.first_expected:
            entry = chain.expected.pop(0)
            chain.first_expected += 1
        else:
            block_hash, content = self._hash(sequence, position), self._content(sequence, position)
            found = self._index.find(block_hash, chain.parent, content)
            if found is not None:  # another sequence registered the same block first
                chain.parent = found.identity
                return
            entry = self._index.expect(block_hash, chain.parent, content)
        block = sequence.block_ids[position]
        self._index.complete(entry, block)
        self._pool.mark_cached(block)
        chain.parent = entry.identity

    def _hash(self, sequence: Sequence, position: int) -> bytes:
        """The chained hash of the sequence's block, computed once: tokens are only ever appended."""
        hashes = sequence.block_hashes
        for missing in range(len(hashes), position + 1):
            parent_hash = hashes[-1] if hashes else b""
            hashes.append(self._index.block_hash(parent_hash, self._content(sequence, missing)))
        return hashes[position]

    def _content(self, sequence: Sequence, position: int) -> bytes:
        size = self.block_size
        tokens = sequence.tokens[position * size : (position + 1) * size].tobytes()
        return tokens if position else sequence.cache_salt + tokens

    def _writes_shared(self, sequence: Sequence) -> bool:
        position = sequence.num_computed // self.block_size
        blocks = sequence.block_ids
        return position < len(blocks) and self._references[blocks[position]] > 1
