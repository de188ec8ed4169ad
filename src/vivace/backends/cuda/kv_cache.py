"""The paged KV cache on a device, for every cache type of `vivace.ops.reference_kv`.

One block more than asked for lies at the end: steps that are filled up to a CUDA graph's size write there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from vivace.backends.cuda.kv_planes import (
    ChannelPlane,
    FloatPlane,
    Fp8Plane,
    Int4Plane,
    Int8Plane,
    TokenPlane,
    round_channel_blocks,
)
from vivace.backends.cuda.matrix import FLOATS
from vivace.backends.cuda.recent_keys import RecentKeys
from vivace.core.errors import EngineError
from vivace.ops.backend import Int32Array, KVSpec, StepInputs


class CudaKVCache:
    """Keys and values of every layer. Codes have the bytes that `KVSpec` counts, or fewer."""

    def __init__(self, spec: KVSpec, num_blocks: int, device: torch.device) -> None:
        self.spec = spec
        self.num_blocks = num_blocks
        self.device = device
        self.spare_slot = num_blocks * spec.block_size
        self._values = _token_plane(spec, num_blocks + 1, device)
        self._recent: RecentKeys | None = None
        self._filled: Tensor | None = None  # blocks that this step fills
        if spec.dtype == "int4_k_per_channel":
            self._channels = ChannelPlane(spec, num_blocks + 1, device)
            self._keys: TokenPlane | ChannelPlane = self._channels
            self._recent = RecentKeys(spec, num_blocks + 1, device)
        else:
            self._keys = _token_plane(spec, num_blocks + 1, device)

    @property
    def has_recent_keys(self) -> bool:
        """Queries read the keys of their own block in another form than those before it."""
        return self._recent is not None

    @property
    def token_planes(self) -> tuple[TokenPlane, TokenPlane]:
        """Keys and values, where both are written token by token."""
        if not isinstance(self._keys, TokenPlane):
            raise EngineError(f"a cache of {self.spec.dtype} keeps its keys by blocks")
        return self._keys, self._values

    @property
    def channel_planes(self) -> tuple[ChannelPlane, TokenPlane]:
        """Keys and values, where keys are written by blocks."""
        if not isinstance(self._keys, ChannelPlane):
            raise EngineError(f"a cache of {self.spec.dtype} keeps its keys by tokens")
        return self._keys, self._values

    @property
    def recent(self) -> RecentKeys:
        """The keys of blocks in progress."""
        if self._recent is None:
            raise EngineError(f"a cache of {self.spec.dtype} keeps no other form of its keys")
        return self._recent

    def track(self, references: Sequence[int]) -> None:
        """Watch the blocks' counts of users, to drop the 16-bit keys of blocks that nobody uses any more."""
        if self._recent is not None:
            self._recent.references = references

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks of every layer, in order: (source, destination)."""
        for source, destination in pairs:
            self._check(self.num_blocks, source, destination)
            for tensor in (*self._keys.tensors, *self._values.tensors):
                tensor[:, destination] = tensor[:, source]
            if self._recent is not None:
                self._recent.copy_block(source, destination)

    def move_tokens(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy single tokens in every layer, in order: (source slot, destination slot)."""
        size = self.spec.block_size
        for source, destination in pairs:
            self._check(self.num_blocks * size, source, destination)
            self._values.move(source, destination)
            if self._recent is None:
                assert isinstance(self._keys, TokenPlane)
                self._keys.move(source, destination)
                continue
            self._recent.move(source, destination)
            if destination % size == size - 1:
                block = destination // size
                numbers = (torch.full((1,), one, device=self.device) for one in (block, self._recent.row(block)))
                self._code(slice(None), *numbers)

    def begin_step(self, inputs: StepInputs) -> dict[str, Int32Array]:
        """Make room for the 16-bit keys of this step's blocks. What the device must know of it travels with the step's
        integers and is given to `learn`."""
        if self._recent is None:
            return {}
        if inputs.parents_T is None:  # a tree's branches begin in front of where the next step may
            starts_B = inputs.context_lens_B - np.diff(inputs.query_starts_B1)
            self._recent.drop_before(inputs.block_tables_BX, starts_B)
        blocks_T, places_T = np.divmod(inputs.slots_T, np.int32(self.spec.block_size))
        self._recent.hold(np.unique(blocks_T).tolist())
        changed, rows = self._recent.changes()
        filled = np.unique(blocks_T[places_T == self.spec.block_size - 1])
        return {"changed_blocks": changed, "changed_rows": rows, "filled_blocks": filled}

    def learn(self, sent: Mapping[str, Tensor]) -> None:
        """What `begin_step` said, on the device."""
        if self._recent is not None:
            self._recent.learn(sent["changed_blocks"], sent["changed_rows"])
            self._filled = sent["filled_blocks"].long()

    def write(self, layer: int, slots_T: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> None:
        """This step's keys and values; blocks of keys that become full are coded."""
        self._values.write(layer, slots_T, v_TGK)
        if self._recent is None:
            assert isinstance(self._keys, TokenPlane)
            self._keys.write(layer, slots_T, k_TGK)
            return
        self._recent.write(layer, slots_T, k_TGK)
        if self._filled is not None and len(self._filled):
            self._code(layer, self._filled, self._recent.row_of_block[self._filled])

    def keys(self, layer: int, slots_I: Tensor, dtype: torch.dtype) -> Tensor:
        """[I, G, K]."""
        return self._keys.read(layer, slots_I, dtype)

    def values(self, layer: int, slots_I: Tensor, dtype: torch.dtype) -> Tensor:
        return self._values.read(layer, slots_I, dtype)

    def recent_keys(self, layer: int, slots_I: Tensor, dtype: torch.dtype) -> Tensor:
        """[I, G, K]: as they were written, of blocks that this step writes; any number for other slots."""
        return self.recent.read(layer, slots_I, dtype)

    def rounded_blocks(self, keys: Tensor) -> Tensor:
        """What keys [..., S, G, K] read back as for queries behind their block."""
        return round_channel_blocks(keys, keys.dtype)

    def _code(self, layer: int | slice, blocks: Tensor, rows: Tensor) -> None:
        self._channels.write_blocks(layer, blocks, self.recent.blocks(layer, rows))

    def _check(self, limit: int, *numbers: int) -> None:
        if not all(0 <= number < limit for number in numbers):
            raise EngineError(f"one of {numbers} is outside the KV cache of {limit}")


def _token_plane(spec: KVSpec, num_blocks: int, device: torch.device) -> TokenPlane:
    if spec.dtype in FLOATS:
        return FloatPlane(spec, num_blocks, FLOATS[spec.dtype], device)
    if spec.dtype == "int8_per_token_head":
        return Int8Plane(spec, num_blocks, device)
    if spec.dtype == "fp8_e4m3":
        return Fp8Plane(spec, num_blocks, device)
    return Int4Plane(spec, num_blocks, device)
