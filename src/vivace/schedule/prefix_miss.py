"""Why the prefix cache held no more of a prompt than it did.

It says nothing that crosses a cache salt: entries with the same parent have the same salt, and first blocks are
compared with those of the same salt alone.
"""

from __future__ import annotations

from vivace.core.history import PrefixMiss
from vivace.schedule.prefix_index import NO_PARENT, PrefixIndex

ID_BYTES = 4  # of a token in a block's content


def explained_miss(
    index: PrefixIndex, block: int, parent: int, block_hash: bytes, content: bytes, size: int
) -> PrefixMiss:
    """Why `block` (its number in the prompt, after the entry `parent`) is not in the index.

    `content` is that of the whole block, of `size` tokens, after the salt in a first block.
    """
    if index.was_evicted(block_hash):
        return PrefixMiss(block, "evicted")
    siblings = index.siblings(parent, content)
    num_common = max((_num_common(content, other, size) for other in siblings), default=0)
    if num_common or (siblings and parent != NO_PARENT):
        return PrefixMiss(block, "different", block * size + num_common)
    has_salt = parent == NO_PARENT and len(content) > ID_BYTES * size
    return PrefixMiss(block, "salt" if has_salt and not siblings else "never")


def _num_common(content: bytes, other: bytes, size: int) -> int:
    """Tokens that two blocks with one salt begin with together."""
    start = len(content) - ID_BYTES * size
    for place in range(size):
        end = start + ID_BYTES
        if content[start:end] != other[start:end]:
            return place
        start = end
    return size
