"""Makes `training`, which is no part of the wheel, importable: it lies at the repository's root."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
