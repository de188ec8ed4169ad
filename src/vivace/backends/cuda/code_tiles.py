"""Matrices of block encodings as `code_layout` lays them: packed when they are loaded, decoded by rows for torch.

Shape letters: N outputs, D inputs, R rows, S steps, G groups of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from vivace.backends.cuda.code_layout import LAYOUTS, TILE_ROWS, CodeLayout
from vivace.backends.cuda.unpack import PARTS
from vivace.formats.tensor import ENCODINGS

PACKED_ELEMENTS = 1 << 25  # of a slice while it is packed: temporaries take some ten times as many bytes


@dataclass(slots=True)
class CodedMatrix:
    """`words` int16 [N / 64, S, tiles, 64, words]; `high` int16 or uint8 [N / 64, S, tiles, 64, words], or `words`
    itself where codes have no high bits; `headers` int32 [S, headers, N padded to 64]."""

    encoding: str
    words: Tensor
    high: Tensor
    headers: Tensor
    num_rows: int
    num_columns: int
    order: Tensor | None
    dtype: torch.dtype = torch.bfloat16

    @property
    def layout(self) -> CodeLayout:
        return LAYOUTS[self.encoding]

    @property
    def num_steps(self) -> int:
        return self.words.shape[1]

    @property
    def num_padded(self) -> int:
        """Rows with those that fill up the last tile."""
        return self.headers.shape[2]

    @property
    def num_bytes(self) -> int:
        high = self.high.nbytes if self.layout.high_bits else 0
        return self.words.nbytes + high + self.headers.nbytes

    def decode(self, rows: slice | Tensor) -> Tensor:
        """[R, D] in the order of stored columns, float32."""
        device = self.words.device
        at = torch.arange(self.num_rows, device=device)[rows] if isinstance(rows, slice) else rows.long()
        codes_RD = unpack_codes(self._of(self.words, at), self._of(self.high, at), self.layout)
        scale_RG, minimum_RG = scales_of(self.headers[:, :, at].permute(2, 0, 1), self.layout)
        codes_RGg = codes_RD.float().unflatten(1, (scale_RG.shape[1], -1))
        if self.layout.headers in ("minimum", "k"):
            decoded = scale_RG[:, :, None] * codes_RGg + minimum_RG[:, :, None]
        else:
            decoded = scale_RG[:, :, None] * (codes_RGg - minimum_RG[:, :, None])
        columns_RD: Tensor = decoded.flatten(1)[:, : self.num_columns]
        return columns_RD

    def _of(self, tiles: Tensor, at: Tensor) -> Tensor:
        """Words [R, S, tiles, words] of these rows."""
        return tiles.permute(0, 3, 1, 2, 4)[at // TILE_ROWS, at % TILE_ROWS]


def pack_codes(data: Tensor, encoding: str, num_columns: int, order: Tensor | None) -> CodedMatrix:
    """From the bytes of the file, uint8 [N, bytes of a row] on the device."""
    height = max(1, PACKED_ELEMENTS // num_columns // TILE_ROWS) * TILE_ROWS
    slices = [_packed(data[start : start + height], encoding) for start in range(0, len(data), height)]
    words, high, headers = (
        parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)
        for parts, axis in zip(zip(*slices, strict=True), (0, 0, 2), strict=True)
    )
    high = high if LAYOUTS[encoding].high_bits else words
    return CodedMatrix(encoding, words, high, headers, len(data), num_columns, order)


def _packed(data: Tensor, encoding: str) -> tuple[Tensor, Tensor, Tensor]:
    """Words, high words and headers of a slice."""
    layout, parts = LAYOUTS[encoding], PARTS[encoding]
    num_rows, block_bytes = len(data), ENCODINGS[encoding][1]
    blocks = data.reshape(-1, block_bytes)
    codes = parts.codes(blocks).reshape(num_rows, -1)
    header = blocks[:, slice(*parts.header)]
    if layout.headers == "q6_k":
        header = pad(header, (0, 2))
    header = header.reshape(num_rows, -1)
    num_steps = -(-codes.shape[1] // layout.step)
    rows = -num_rows % TILE_ROWS
    codes = pad(codes, (0, num_steps * layout.step - codes.shape[1], 0, rows))
    header = pad(header, (0, num_steps * layout.num_headers * 4 - header.shape[1], 0, rows))
    headers = header.contiguous().view(torch.int32).reshape(-1, num_steps, layout.num_headers)
    low, high = pack_words(codes.unflatten(1, (num_steps, layout.step)), layout)
    return _tiled(low), _tiled(high), headers.permute(1, 2, 0).contiguous()


def pack_words(codes: Tensor, layout: CodeLayout) -> tuple[Tensor, Tensor]:
    """Codes uint8 [N, S, step] as words int16 [N, S, tiles, words], and those of the high bits."""
    device = codes.device
    planes = codes.unflatten(2, (layout.tiles, layout.planes, layout.plane)).to(torch.int32)
    shifts = torch.arange(layout.planes, device=device, dtype=torch.int32) * layout.low_bits
    low = ((planes & (1 << layout.low_bits) - 1) << shifts[:, None]).sum(3, dtype=torch.int32).to(torch.int16)
    if not layout.high_bits:
        return low, low[:, :, :0]
    planes = (planes >> layout.low_bits).flatten(2, 3).unflatten(2, (-1, 8))  # eight planes share a high word
    shifts = torch.arange(8, device=device, dtype=torch.int32) * layout.high_bits
    high = (planes << shifts[:, None]).sum(3, dtype=torch.int32)
    return low, high.to(torch.uint8 if layout.high_bits == 1 else torch.int16)


def unpack_codes(low: Tensor, high: Tensor, layout: CodeLayout) -> Tensor:
    """The reverse for rows: int32 [R, S * step]."""
    device = low.device
    shifts = torch.arange(layout.planes, device=device, dtype=torch.int32) * layout.low_bits
    codes = (low.to(torch.int32)[:, :, :, None] >> shifts[:, None] & (1 << layout.low_bits) - 1).flatten(1)
    if not layout.high_bits:
        return codes
    shifts = torch.arange(8, device=device, dtype=torch.int32) * layout.high_bits
    above = (high.to(torch.int32)[:, :, :, None] >> shifts[:, None] & (1 << layout.high_bits) - 1).flatten(1)
    return codes | above << layout.low_bits


def scales_of(headers: Tensor, layout: CodeLayout) -> tuple[Tensor, Tensor]:
    """Of words int32 [R, S, headers]: float32 [R, G] each, the scale, and the zero point, or what is added for
    "minimum" and "k".
    """
    headers = headers.contiguous()
    if layout.headers == "k":
        return _k_scales(headers.view(torch.uint8))
    if layout.headers == "q6_k":
        scale = headers[:, :, 4:].contiguous().view(torch.float16)[:, :, :1].float()
        scales_RG = (scale * headers[:, :, :4].contiguous().view(torch.int8).float()).flatten(1)
        return scales_RG, torch.full_like(scales_RG, layout.zero)
    halves = headers.view(torch.float16)
    if layout.headers == "pair":
        scales_RG = halves.float().flatten(1)
        return scales_RG, torch.full_like(scales_RG, layout.zero)
    scales_RG = halves[:, :, ::2].float().flatten(1)
    if layout.headers == "minimum":
        return scales_RG, halves[:, :, 1::2].float().flatten(1)
    return scales_RG, headers.view(torch.uint8)[:, :, 2::4].float().flatten(1)


def _k_scales(octets: Tensor) -> tuple[Tensor, Tensor]:
    """d * sc and -dmin * m of q4_k and q5_k; `vivace.formats.k_quants` says how 6 bits are packed."""
    halves = octets[:, :, :4].contiguous().view(torch.float16).float()
    first, second, third = octets[:, :, 4:8], octets[:, :, 8:12], octets[:, :, 12:16]
    scales = torch.cat([first & 63, third & 15 | first >> 2 & 48], dim=2)
    minima = torch.cat([second & 63, third >> 4 | second >> 2 & 48], dim=2)
    return (halves[:, :, :1] * scales.float()).flatten(1), -(halves[:, :, 1:] * minima.float()).flatten(1)


def _tiled(words: Tensor) -> Tensor:
    """[N, S, tiles, words] -> [N / 64, S, tiles, 64, words]."""
    tiles: Tensor = words.unflatten(0, (-1, TILE_ROWS)).permute(0, 2, 3, 1, 4)
    return tiles.contiguous()
