"""Medusa heads as files: `medusa.safetensors` with `medusa.json` beside it (Cai et al., 2024, arXiv:2401.10774).

Head k, counted from 0, guesses the token k + 2 places ahead of the last one that the model has read; the model itself
guesses the next. A head is one residual block on the model's hidden state x behind the final norm,
x + silu(W x + b); its logits come from the model's own frozen lm_head, so that only W and b are stored.

In format 2 a head also sees the next token itself, which is drawn by the time that heads guess (after Ankner et al.,
2024, "Hydra: sequentially-dependent draft heads"): x + silu(W [x, e] + b), e being its row of the token embedding
over the root of its mean square. Without it, heads must guess what was drawn too: hopeless for text that is sampled.

Shape letters: K heads, D hidden, I inputs of a head: D, or 2 D with the token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.core.errors import ModelFileError
from vivace.formats.atomic_file import atomic_writer
from vivace.formats.dequantize import dequantize
from vivace.formats.model_directory import model_file
from vivace.formats.quantize_rtn import encode
from vivace.formats.safetensors import SafetensorsFile
from vivace.formats.safetensors_writer import write_safetensors
from vivace.models.config_fields import ConfigFields

MANIFEST_NAME, WEIGHTS_NAME = "medusa.json", "medusa.safetensors"
FORMATS = {"medusa-1": 1, "medusa-2": 2}  # inputs of a head, in hidden widths
TOKEN_EPS = 1e-6  # added to the mean square of a token's embedding
MAX_HEADS, MAX_TREE_NODES = 16, 1024
MAX_MANIFEST_BYTES = 1 << 20

TreePath = tuple[int, ...]  # (r0, r1, ...): head 0's guess of rank r0, behind it head 1's of rank r1, ...; 0 is best


@dataclass(frozen=True, slots=True, eq=False)
class MedusaHeads:
    """Heads of one model. `tree` lists candidate paths, best first: each prefix of the list is a tree."""

    weights_KDI: NDArray[np.float32]
    biases_KD: NDArray[np.float32]
    tree: tuple[TreePath, ...]
    base_fingerprint: str  # of the checkpoint that the heads were trained on
    vocab_size: int
    facts: Mapping[str, Any]  # accuracy and training, for people

    @property
    def num_heads(self) -> int:
        return len(self.biases_KD)

    @property
    def hidden_size(self) -> int:
        return int(self.biases_KD.shape[1])

    @property
    def sees_token(self) -> bool:
        """Whether heads see the token behind the state, beside the state."""
        return int(self.weights_KDI.shape[2]) == 2 * self.hidden_size


def write_medusa(directory: str | PathLike[str], heads: MedusaHeads) -> None:
    """Weights in bfloat16, then the manifest with their checksum: without it there are no heads."""
    directory = Path(directory)
    tensors = {}
    for index in range(heads.num_heads):
        tensors[f"heads.{index}.weight"] = encode(heads.weights_KDI[index], "bf16")
        tensors[f"heads.{index}.bias"] = encode(heads.biases_KD[index], "bf16")
    file_format = "medusa-2" if heads.sees_token else "medusa-1"
    write_safetensors(directory / WEIGHTS_NAME, tensors, {"format": file_format})
    manifest = {
        "format": file_format,
        "num_heads": heads.num_heads,
        "hidden_size": heads.hidden_size,
        "vocab_size": heads.vocab_size,
        "base_fingerprint": heads.base_fingerprint,
        "weights_sha256": _sha256(directory / WEIGHTS_NAME),
        "tree": [list(path) for path in heads.tree],
        **heads.facts,
    }
    with atomic_writer(directory / MANIFEST_NAME) as file:
        file.write((json.dumps(manifest, indent=1) + "\n").encode())


def read_medusa(directory: str | PathLike[str]) -> MedusaHeads:
    """Heads that `write_medusa` wrote. Raises ModelFileError naming the key or tensor at fault."""
    path = model_file(directory, MANIFEST_NAME)
    manifest = _read_manifest(path)
    fields = ConfigFields(manifest, path)
    widths = FORMATS.get(fields.text("format"))
    if widths is None:
        raise fields.error("format", f"must be one of {', '.join(FORMATS)}, got {fields.text('format')!r:.80}")
    num_heads, hidden_size = fields.count("num_heads", MAX_HEADS), fields.size("hidden_size", "hidden_size")
    weights = model_file(directory, WEIGHTS_NAME)
    if _sha256(weights) != fields.text("weights_sha256"):
        raise fields.error("weights_sha256", f"is not that of {WEIGHTS_NAME}: the file is broken or of other heads")
    tensors = SafetensorsFile.open(weights).tensors
    shapes = {"weight": (hidden_size, widths * hidden_size), "bias": (hidden_size,)}
    stacks = {}
    for part, shape in shapes.items():
        names = [f"heads.{index}.{part}" for index in range(num_heads)]
        for name in names:
            if name not in tensors or tensors.entry(name).shape != shape:
                raise ModelFileError(weights, f"must have shape {shape}", field=name)
        stacks[part] = np.stack([dequantize(tensors[name]) for name in names])
    return MedusaHeads(
        weights_KDI=stacks["weight"],
        biases_KD=stacks["bias"],
        tree=_read_tree(fields, num_heads),
        base_fingerprint=fields.text("base_fingerprint"),
        vocab_size=fields.size("vocab_size", "vocab_size"),
        facts={key: manifest[key] for key in ("accuracy", "expected_tokens", "training") if key in manifest},
    )


def _read_manifest(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ModelFileError(path, f"larger than {MAX_MANIFEST_BYTES} bytes")
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelFileError(path, "no such file; Medusa heads are made by `vivace train-medusa`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(path, f"cannot be read as JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise ModelFileError(path, "must hold a JSON object")
    return manifest


def _read_tree(fields: ConfigFields, num_heads: int) -> tuple[TreePath, ...]:
    nodes = fields.get("tree")
    if not isinstance(nodes, list) or not 1 <= len(nodes) <= MAX_TREE_NODES:
        raise fields.error("tree", f"must list 1 to {MAX_TREE_NODES} paths")
    tree: dict[TreePath, None] = {}
    for node in nodes:
        if not isinstance(node, list) or not all(type(rank) is int and 0 <= rank < 1 << 16 for rank in node):
            raise fields.error("tree", f"a path is a list of ranks, got {node!r:.80}")
        path = tuple(node)
        if not 1 <= len(path) <= num_heads or path in tree or (len(path) > 1 and path[:-1] not in tree):
            raise fields.error("tree", f"path {node!r:.80} is double, too deep, or comes before its parent")
        tree[path] = None
    return tuple(tree)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}") from error
