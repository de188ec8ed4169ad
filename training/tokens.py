"""Token shards as training batches and held-out windows.

The order is a function of the seed alone, so that a resumed run sees what an uninterrupted one would.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class TokenShards:
    """Non-overlapping windows of `context + 1` tokens over all shards of a folder, shuffled anew for each epoch."""

    def __init__(self, folder: Path, context: int, seed: int) -> None:
        paths = sorted(folder.glob("tokens-*.npy"))
        if not paths:
            raise FileNotFoundError(f"no tokens-*.npy in {folder}: run training.prepare first")
        self.shards = [np.load(path, mmap_mode="r") for path in paths]
        self.context, self.seed = context, seed
        self.windows = [
            (shard, start)
            for shard, tokens in enumerate(self.shards)
            for start in range(0, len(tokens) - context, context)
        ]
        if not self.windows:
            raise ValueError(f"the shards in {folder} are shorter than a context of {context} tokens")
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def batch(self, tokens: int, size: int) -> Tensor:
        """[size, context + 1] int64: the next windows after `tokens` tokens."""
        first = tokens // self.context
        rows = [self._window(index) for index in range(first, first + size)]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _window(self, index: int) -> np.ndarray:
        epoch, position = divmod(index, len(self.windows))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(len(self.windows))
            self._epoch = epoch
        shard, start = self.windows[self._order[position]]
        window: np.ndarray = self.shards[shard][start : start + self.context + 1]
        return window


def heldout_windows(path: Path, context: int, batch: int, limit: int | None = None) -> Iterator[Tensor]:
    """Windows [≤ batch, ≤ context + 1] that predict each token of a file once, the first excepted.

    `limit` takes that many windows, evenly spread over the file.
    """
    tokens = np.load(path).astype(np.int64)
    starts = list(range(0, len(tokens) - context, context))
    if limit is None:
        for i in range(0, len(starts), batch):
            yield _stack(tokens, starts[i : i + batch], context)
        tail = tokens[len(starts) * context :]
        if len(tail) > 1:
            yield torch.from_numpy(tail[None])
        return
    spread = [starts[i] for i in np.linspace(0, len(starts) - 1, min(limit, len(starts))).astype(int)]
    for i in range(0, len(spread), batch):
        yield _stack(tokens, spread[i : i + batch], context)


def _stack(tokens: np.ndarray, starts: list[int], context: int) -> Tensor:
    return torch.from_numpy(np.stack([tokens[start : start + context + 1] for start in starts]))
