"""In which types a device computes.

On CUDA, values between operations are bfloat16 (float32 where a model's matrices are float32), products take the
weights' own 16 bits with float32 sums, and what is sensitive (norms, angles, softmax) is float32.

torch's CPU device is for tests. There values are float32 and everything inside an operation float64: sums whose order
depends on the number of rows, as torch's do, then differ by 1e-16 and round to the same float32, all but one in some
10^8. So tests of what is served together can ask for equal bits. cuBLAS gives no such promise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Precision:
    """`values` between operations, `wide` inside of sensitive ones, `products` of matrices with 16 bits or codes."""

    values: torch.dtype
    wide: torch.dtype
    products: torch.dtype | None  # None: as the matrix is

    def of_product(self, matrix: torch.dtype) -> torch.dtype:
        """The type in which both sides of a product with a matrix of this type are read."""
        return matrix if self.products is None else self.products


def precision_of(layouts: Iterable[str], *, is_exact: bool) -> Precision:
    """For a program whose matrices have these layouts. `is_exact`: on torch's CPU device, for its tests."""
    if is_exact:
        return Precision(torch.float32, torch.float64, torch.float64)
    values = torch.float32 if "f32" in set(layouts) else torch.bfloat16
    return Precision(values, torch.float32, None)
