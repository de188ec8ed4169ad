"""Where each kernel applies. Every function answers None, or in words why torch's operations run instead."""

from __future__ import annotations

from vivace.backends.cuda.code_layout import LAYOUTS
from vivace.backends.cuda.kernels.case import AttentionCase, CacheWriteCase, ProductCase, RowCase
from vivace.backends.cuda.token_codes import TOKEN_ENCODINGS

VALUES = ("float32", "float16", "bfloat16")
MAX_HEAD_DIM = 512
MAX_GROUP_WIDTH = 16384  # columns that one program of a norm holds in registers
RUN = 16  # columns: strides that are multiples of it let threads load as many at once in every kernel
MAX_TOKEN_WIDTH = 32768  # one program finds a token's scale with all of its row in registers


def attention(case: AttentionCase) -> str | None:
    if case.head_dim > MAX_HEAD_DIM:
        return f"heads of {case.head_dim} dimensions; the kernel's registers hold {MAX_HEAD_DIM}"
    if case.kv_dtype == "int4_k_per_channel" and case.has_branches:
        return "blocks that a path of guesses fills are no blocks of a cache of int4_k_per_channel yet"
    return _values(case.values) or _grouped(case.kv_dtype, case.head_dim)


def cache_write(case: CacheWriteCase) -> str | None:
    if case.kv_dtype == "int4_k_per_channel":
        return "a cache of int4_k_per_channel keeps its latest keys in another place"
    return _grouped(case.kv_dtype, case.head_dim)


def rows(case: RowCase) -> str | None:
    if "rms_norm" in case.op and case.width > MAX_GROUP_WIDTH:
        return f"{case.width} columns in a group; a program holds {MAX_GROUP_WIDTH}"
    if case.op == "coded_rms_norm" and case.width % RUN:
        return (
            f"{case.width} columns; a sum has the order of the norm's own kernel where they are whole runs of {RUN}"
        )
    if case.op == "coded_gated_activation" and case.width > MAX_TOKEN_WIDTH:
        return f"{case.width} columns; a program finds the scale of {MAX_TOKEN_WIDTH}"
    return _values(case.values)


def product(case: ProductCase) -> str | None:
    if case.encoding in TOKEN_ENCODINGS:
        if case.num_inputs > MAX_TOKEN_WIDTH:
            return f"{case.num_inputs} inputs; a program finds the scale of {MAX_TOKEN_WIDTH}"
        return _values(case.values)
    if case.encoding not in LAYOUTS:
        return f"no kernel multiplies with {case.encoding}"
    return _values(case.values)


def _values(dtype: str) -> str | None:
    return None if dtype in VALUES else f"values of {dtype}"


def _grouped(kv_dtype: str, head_dim: int) -> str | None:
    if kv_dtype in ("int4_per_token_head", "int4_k_per_channel") and head_dim % 32:
        return f"heads of {head_dim} dimensions are not whole groups of 32"
    return None
