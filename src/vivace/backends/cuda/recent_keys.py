"""Keys of blocks in progress, float16 as they were written: beside a pool whose keys are coded by channel.

A block has a row here from when it is first written until a step begins behind it, or until nobody uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from vivace.ops.backend import Int32Array, KVSpec

FIRST_ROWS = 32


class RecentKeys:
    """`keys` [layers, rows, S, G, K]; `row_of_block`, int64 on the device: row 0 is nobody's. The device learns of
    changes with the integers of the next step: a copy of its own would be one more wait in it."""

    def __init__(self, spec: KVSpec, num_blocks: int, device: torch.device) -> None:
        self._block_size = spec.block_size
        self._shape = (spec.block_size, spec.num_kv_heads, spec.head_dim)
        self.keys = torch.zeros((spec.num_layers, FIRST_ROWS, *self._shape), dtype=torch.float16, device=device)
        self._free = list(range(FIRST_ROWS - 1, 0, -1))
        self._rows = np.zeros(num_blocks, np.int64)
        self.row_of_block = torch.zeros(num_blocks, dtype=torch.int64, device=device)
        self._changed: set[int] = set()  # blocks
        self.references: Sequence[int] | None = None

    def hold(self, blocks: Iterable[int]) -> None:
        """Make sure that these blocks have rows."""
        for block in blocks:
            if not self._rows[block]:
                if not self._free:
                    self._make_room()
                self._rows[block] = self._free.pop()
                self._changed.add(block)

    def drop_before(self, tables_BX: Int32Array, starts_B: Int32Array) -> None:
        """Drop what lies behind each sequence: blocks before the one of its step's first position."""
        for table_X, start in zip(tables_BX, starts_B.tolist(), strict=True):
            for place in range(start // self._block_size - 1, -1, -1):
                block = int(table_X[place])
                if not self._rows[block]:
                    break
                self._drop(block)

    def holds(self, block: int) -> bool:
        return bool(self._rows[block])

    def row(self, block: int) -> int:
        return int(self._rows[block])

    def changes(self) -> tuple[Int32Array, Int32Array]:
        """Blocks whose rows the device does not know yet, and those rows: to be sent, and given to `learn`."""
        blocks = np.array(sorted(self._changed), np.int32)
        self._changed.clear()
        return blocks, self._rows[blocks].astype(np.int32)

    def learn(self, blocks: Tensor, rows: Tensor) -> None:
        """What `changes` said, on the device."""
        if len(blocks):
            self.row_of_block.index_copy_(0, blocks.long(), rows.long())

    def slots(self, slots_I: Tensor) -> Tensor:
        """Where the keys of these slots lie in `keys`, its rows and places flattened."""
        return self.row_of_block[slots_I // self._block_size] * self._block_size + slots_I % self._block_size

    def write(self, layer: int, slots_T: Tensor, k_TGK: Tensor) -> None:
        self.keys[layer].flatten(0, 1)[self.slots(slots_T)] = k_TGK.half()

    def read(self, layer: int, slots_I: Tensor, dtype: torch.dtype) -> Tensor:
        return self.keys[layer].flatten(0, 1)[self.slots(slots_I)].to(dtype)

    def blocks(self, layer: int | slice, rows: Tensor) -> Tensor:
        """[..., blocks, S, G, K] of these rows."""
        return self.keys[layer].index_select(-4, rows)

    def copy_block(self, source: int, destination: int) -> None:
        if self.holds(source):
            self.hold([destination])
            self.keys[:, self._rows[destination]] = self.keys[:, self._rows[source]]

    def move(self, source: int, destination: int) -> None:
        self.hold([source // self._block_size, destination // self._block_size])
        rows = self.keys.flatten(1, 2)
        rows[:, self._slot(destination)] = rows[:, self._slot(source)]

    def _slot(self, slot: int) -> int:
        return int(self._rows[slot // self._block_size]) * self._block_size + slot % self._block_size

    def _drop(self, block: int) -> None:
        self._free.append(int(self._rows[block]))
        self._rows[block] = 0
        self._changed.add(block)

    def _make_room(self) -> None:
        """Of blocks that nobody uses any more; else twice the rows."""
        if self.references is not None:
            for block in np.flatnonzero(self._rows).tolist():
                if block < len(self.references) and self.references[block] == 0:
                    self._drop(block)
        if len(self._free) * 4 >= self.keys.shape[1]:
            return
        num_rows = self.keys.shape[1]
        self.keys = torch.cat([self.keys, torch.zeros_like(self.keys)], dim=1)
        self._free.extend(range(2 * num_rows - 1, num_rows - 1, -1))
