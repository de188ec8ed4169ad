"""Section (b): every kernel against the reference in float32, its time beside the ceiling and the best library."""

from __future__ import annotations

from collections.abc import Iterator

from gpu.attention import attention_items
from gpu.products import joined_items, product_items
from gpu.row_operations import row_items
from gpu.sampling import sampling_items
from gpu.setting import Item, Setting
from gpu.timing import ceilings_of


def kernel_items(setting: Setting) -> Iterator[Item]:
    """What the issue's targets are about first; the rest as time allows."""
    ceilings = ceilings_of(setting)
    attention = list(attention_items(setting, ceilings))
    products = list(product_items(setting, ceilings))
    first = [item for item in attention if " bf16 " in item.key]
    yield from first
    yield from products[:12]
    yield from row_items(setting, ceilings)
    yield from joined_items(setting, ceilings)
    yield from (item for item in attention if item not in first)
    yield from products[12:]
    yield from sampling_items(setting, ceilings)
