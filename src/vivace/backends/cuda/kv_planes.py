"""Keys, or values, of all layers: one way of holding them a class.

Tokens lie one behind the other: slot s of a layer is block s // block_size, place s % block_size. Shape letters: T
tokens written, I slots read (any shape), G KV heads, K head dimension, S places of a block, P bytes or groups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from vivace.backends.cuda.kv_codes import Levels, find_e4m3, find_levels, int4_groups, pack_nibbles, unpack_nibbles
from vivace.ops.backend import KVSpec


class TokenPlane(ABC):
    """A plane whose slots stand for themselves: tensors [layers, blocks, S, G, ...]. To copy blocks copy them all."""

    tensors: tuple[Tensor, ...]

    @abstractmethod
    def write(self, layer: int, slots_T: Tensor, x_TGK: Tensor) -> None: ...

    @abstractmethod
    def read(self, layer: int, slots_I: Tensor, dtype: torch.dtype) -> Tensor:
        """[I, G, K]."""

    def move(self, source: int, destination: int) -> None:
        """Copy one slot in every layer."""
        for tensor in self.tensors:
            slots = tensor.flatten(1, 2)
            slots[:, destination] = slots[:, source]


class FloatPlane(TokenPlane):
    """As they are, in 32 or 16 bits."""

    def __init__(self, spec: KVSpec, num_blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (spec.num_layers, num_blocks, spec.block_size, spec.num_kv_heads, spec.head_dim)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.tensors = (self.values,)

    def write(self, layer: int, slots_T: Tensor, x_TGK: Tensor) -> None:
        self.values[layer].flatten(0, 1)[slots_T] = x_TGK.to(self.values.dtype)

    def read(self, layer: int, slots_I: Tensor, dtype: torch.dtype) -> Tensor:
        return self.values[layer].flatten(0, 1)[slots_I].to(dtype)


class Int8Plane(TokenPlane):
    """256 levels between the extremes of each token's vector of a head."""

    def __init__(self, spec: KVSpec, num_blocks: int, device: torch.device) -> None:
        shape = (spec.num_layers, num_blocks, spec.block_size, spec.num_kv_heads)
        self.codes = torch.zeros((*shape, spec.head_dim), dtype=torch.uint8, device=device)
        self.ranges = torch.zeros((*shape, 2), dtype=torch.bfloat16, device=device)
        self.tensors = (self.codes, self.ranges)

    def write(self, layer: int, slots_T: Tensor, x_TGK: Tensor) -> None:
        levels = find_levels(x_TGK, -1, 255)
        self.codes[layer].flatten(0, 1)[slots_T] = levels.codes
        self.ranges[layer].flatten(0, 1)[slots_T] = torch.cat([levels.scale, levels.minimum], dim=-1)

    def read(self, layer: int, slots_I: Tensor, dtype: torch.dtype) -> Tensor:
        codes, ranges = self.codes[layer].flatten(0, 1)[slots_I], self.ranges[layer].flatten(0, 1)[slots_I]
        return Levels(codes, ranges[..., :1], ranges[..., 1:]).decode(dtype)


class Fp8Plane(TokenPlane):
    """8-bit floats, scaled by the largest element of each token's vector of a head. Their bits: torch copies and
    scatters no float8."""

    def __init__(self, spec: KVSpec, num_blocks: int, device: torch.device) -> None:
        shape = (spec.num_layers, num_blocks, spec.block_size, spec.num_kv_heads)
        self.codes = torch.zeros((*shape, spec.head_dim), dtype=torch.uint8, device=device)
        self.scales = torch.zeros((*shape, 1), dtype=torch.bfloat16, device=device)
        self.tensors = (self.codes, self.scales)

    def write(self, layer: int, slots_T: Tensor, x_TGK: Tensor) -> None:
        codes, scales = find_e4m3(x_TGK)
        self.codes[layer].flatten(0, 1)[slots_T] = codes
        self.scales[layer].flatten(0, 1)[slots_T] = scales

    def read(self, layer: int, slots_I: Tensor, dtype: torch.dtype) -> Tensor:
        codes, scales = self.codes[layer].flatten(0, 1)[slots_I], self.scales[layer].flatten(0, 1)[slots_I]
        return codes.view(torch.float8_e4m3fn).to(dtype) * scales.to(dtype)


class Int4Plane(TokenPlane):
    """16 levels between the extremes of each 32 dimensions of a token's vector: a byte holds dimensions i and i + 16
    of its 32."""

    def __init__(self, spec: KVSpec, num_blocks: int, device: torch.device) -> None:
        self.head_dim = spec.head_dim
        shape = (spec.num_layers, num_blocks, spec.block_size, spec.num_kv_heads, -(-spec.head_dim // 32))
        self.codes = torch.zeros((*shape, 16), dtype=torch.uint8, device=device)
        self.ranges = torch.zeros((*shape, 2), dtype=torch.bfloat16, device=device)
        self.tensors = (self.codes, self.ranges)

    def write(self, layer: int, slots_T: Tensor, x_TGK: Tensor) -> None:
        levels = find_levels(int4_groups(x_TGK), -1, 15)
        self.codes[layer].flatten(0, 1)[slots_T] = pack_nibbles(levels.codes)
        self.ranges[layer].flatten(0, 1)[slots_T] = torch.cat([levels.scale, levels.minimum], dim=-1)

    def read(self, layer: int, slots_I: Tensor, dtype: torch.dtype) -> Tensor:
        codes = unpack_nibbles(self.codes[layer].flatten(0, 1)[slots_I])
        ranges = self.ranges[layer].flatten(0, 1)[slots_I]
        decoded = Levels(codes, ranges[..., :1], ranges[..., 1:]).decode(dtype)
        return decoded.flatten(-2)[..., : self.head_dim]


class ChannelPlane:
    """Keys of whole blocks: 16 levels between the extremes that a dimension takes over the block's tokens. A byte
    holds places i and i + S / 2 of a dimension: codes [layers, blocks, G, K, S / 2], ranges [.., K, 2].
    """

    def __init__(self, spec: KVSpec, num_blocks: int, device: torch.device) -> None:
        self.block_size = spec.block_size
        shape = (spec.num_layers, num_blocks, spec.num_kv_heads, spec.head_dim)
        self.codes = torch.zeros((*shape, spec.block_size // 2), dtype=torch.uint8, device=device)
        self.ranges = torch.zeros((*shape, 2), dtype=torch.bfloat16, device=device)
        self.tensors = (self.codes, self.ranges)

    def write_blocks(self, layer: int | slice, blocks: Tensor, keys: Tensor) -> None:
        """Code whole blocks [..., blocks, S, G, K]; a slice of layers stands for the leading dimension."""
        levels = find_levels(keys.movedim(-3, -1), -1, 15)
        self.codes[layer].index_copy_(-4, blocks, pack_nibbles(levels.codes))
        self.ranges[layer].index_copy_(-4, blocks, torch.cat([levels.scale, levels.minimum], dim=-1))

    def read(self, layer: int, slots_I: Tensor, dtype: torch.dtype) -> Tensor:
        block_I = slots_I // self.block_size
        place_I = slots_I % self.block_size
        half = self.block_size // 2
        byte = self.codes[layer].movedim(-1, 1)[block_I, place_I % half]  # [I, G, K]
        shift = (place_I // half * 4).to(torch.uint8)[..., None, None]
        ranges = self.ranges[layer][block_I]
        return Levels(byte >> shift & 15, ranges[..., 0], ranges[..., 1]).decode(dtype)


def round_channel_blocks(keys: Tensor, dtype: torch.dtype) -> Tensor:
    """What keys of whole blocks [..., S, G, K] read back as once they are coded."""
    return find_levels(keys, -3, 15).decode(dtype)
