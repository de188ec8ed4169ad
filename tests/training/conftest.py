"""Makes `training`, which is no part of the wheel, importable: it lies at the repository's root."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
torch.set_num_threads(1)  # beside other work, a second thread made these tests four times slower
