"""Which KV blocks hold which prefixes, and which prefixes are being computed right now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

from vivace.core.sequence import Sequence

NO_PARENT = 0
_PENDING = -1
MAX_SIBLINGS = 8  # entries with one parent that are remembered for comparison
MAX_EVICTED = 8192  # hashes of overwritten blocks; 1.2 MB

BlockHash = Callable[[bytes, bytes], bytes]


def chained_hash(parent_hash: bytes, content: bytes) -> bytes:
    """The hash of a block, given its parent's hash (empty for a first block) and its own content."""
    return blake2b(parent_hash.ljust(16, b"\0") + content, digest_size=16).digest()


@dataclass(eq=False, slots=True)
class PrefixEntry:
    """One block of a prefix. Equal entries have the same parent entry and the same content.

    `content` is the bytes of the block's tokens, after the cache salt in a first block. `parent` is the
    parent entry's `identity` (a number never used twice), so that a chain of entries spells the whole prefix
    and a block number that has been reused since cannot be mistaken for the old parent.
    """

    identity: int
    parent: int
    block_hash: bytes
    content: bytes
    block: int = _PENDING
    waiters: list[Sequence] = field(default_factory=list)

    @property
    def is_pending(self) -> bool:
        """True while a running sequence still computes the block."""
        return self.block == _PENDING


class PrefixIndex:
    """Entries by chained hash. A hash only finds candidates: parent and content decide, so that two prefixes
    whose hashes collide never share a block.

    `woken` collects the sequences whose awaited entry was completed or dropped, for the scheduler to take.
    """

    def __init__(self, block_hash: BlockHash = chained_hash, num_token_bytes: int = 0) -> None:
        """`num_token_bytes`: what follows the salt in a first block."""
        self.block_hash = block_hash
        self._num_token_bytes = num_token_bytes
        self._families: dict[int | bytes, list[PrefixEntry]] = {}  # by parent, or by salt: the latest of each
        self._evicted: OrderedDict[bytes, None] = OrderedDict()  # hashes, the latest last
        self.woken: list[Sequence] = []
        self._candidates: dict[bytes, list[PrefixEntry]] = {}
        self._by_block: dict[int, PrefixEntry] = {}
        self._last_identity = NO_PARENT

    def __len__(self) -> int:
        """Number of complete entries."""
        return len(self._by_block)

    @property
    def blocks(self) -> set[int]:
        """The blocks of all complete entries."""
        return set(self._by_block)

    def find(self, block_hash: bytes, parent: int, content: bytes) -> PrefixEntry | None:
        """The entry of this block after this parent, complete or pending."""
        for entry in self._candidates.get(block_hash, ()):
            if entry.parent == parent and entry.content == content:
                return entry
        return None

    def expect(self, block_hash: bytes, parent: int, content: bytes) -> PrefixEntry:
        """Add a pending entry: the caller is about to compute this block. It must not be in the index yet."""
        self._last_identity += 1
        entry = PrefixEntry(self._last_identity, parent, block_hash, content)
        self._candidates.setdefault(block_hash, []).append(entry)
        self._join_family(entry)
        return entry

    def complete(self, entry: PrefixEntry, block: int) -> None:
        """The pending entry's content is in `block` from now on. Wakes its waiters."""
        entry.block = block
        self._by_block[block] = entry
        self._wake(entry)

    def drop(self, entry: PrefixEntry) -> None:
        """The pending entry will not be computed by its owner. Wakes its waiters."""
        self._remove(entry)
        self._wake(entry)

    def evict(self, block: int) -> None:
        """The block is about to be overwritten. Entries below it stay until their own blocks are evicted, but
        nothing reaches them any more."""
        entry = self._by_block.pop(block)
        self._remove(entry)
        self._evicted[entry.block_hash] = None
        if len(self._evicted) > MAX_EVICTED:
            self._evicted.popitem(last=False)

    def was_evicted(self, block_hash: bytes) -> bool:
        """Whether a block with this hash was overwritten lately."""
        return block_hash in self._evicted

    def siblings(self, parent: int, content: bytes) -> list[bytes]:
        """Contents of the latest blocks after this parent; of first blocks, those with the salt of `content`."""
        return [entry.content for entry in self._families.get(self._family(parent, content), ())]

    def _family(self, parent: int, content: bytes) -> int | bytes:
        return parent if parent != NO_PARENT else content[: len(content) - self._num_token_bytes]

    def _join_family(self, entry: PrefixEntry) -> None:
        family = self._families.setdefault(self._family(entry.parent, entry.content), [])
        family.append(entry)
        if len(family) > MAX_SIBLINGS:
            del family[0]

    def _leave_family(self, entry: PrefixEntry) -> None:
        name = self._family(entry.parent, entry.content)
        family = self._families.get(name)
        if family is None or entry not in family:
            return
        family.remove(entry)
        if not family:
            del self._families[name]

    def _remove(self, entry: PrefixEntry) -> None:
        candidates = self._candidates[entry.block_hash]
        candidates.remove(entry)
        if not candidates:
            del self._candidates[entry.block_hash]
        self._leave_family(entry)

    def _wake(self, entry: PrefixEntry) -> None:
        if entry.waiters:
            self.woken.extend(entry.waiters)
            entry.waiters = []
