"""Triton reads TRITON_INTERPRET when it is imported, which any module of the backend may do: set it before them."""

from __future__ import annotations

import os
from importlib.util import find_spec

if find_spec("torch") is not None:
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
