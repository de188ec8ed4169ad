"""What a kernel is asked about: the facts of one operation that decide whether it applies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AttentionCase:
    """`kv_dtype`: of `vivace.core.config.KVDtype`; `values`: the queries' type, as torch names it."""

    kv_dtype: str
    values: str
    head_dim: int
    has_branches: bool = False  # rows whose parents are not the rows before them

    op = "attention"


@dataclass(frozen=True, slots=True)
class CacheWriteCase:
    kv_dtype: str
    head_dim: int

    op = "kv_write"


@dataclass(frozen=True, slots=True)
class RowCase:
    """Norms, rope and activations. `width`: of a group of columns."""

    op: str
    values: str
    width: int


@dataclass(frozen=True, slots=True)
class ProductCase:
    """`encoding`: of the stored matrix."""

    encoding: str
    values: str
    num_inputs: int

    op = "linear"


Case = AttentionCase | CacheWriteCase | RowCase | ProductCase
