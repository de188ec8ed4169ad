"""What GGUF encodings cost: our encoders beside llama.cpp's, our inference beside llama.cpp's, on the same files.

    python benches/gguf_quality.py [MODEL] --calibration FILE --text FILE [--types Q4_K_M ...] [--chunks 32]

Both quantisers get the importance matrix of the same calibration text: mean squared inputs of every matrix, taken
from transformers in float32 (llama.cpp's without the output matrix, as its own tool measures it; `+ output` with it).
Every file is then run by both engines, on one thread, over the same windows of 512 tokens of a text that neither saw,
and held against transformers in float32 on the original weights. Prints a Markdown table: mean and 99th percentile of
the KL divergence in nats, how often the likeliest token is the same, and the ratio of perplexities.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from engine_logits import EngineModel

from vivace.engine.tokenizer import load_tokenizer
from vivace.quantize.gguf_export import export_gguf, gguf_importance
from vivace.quantize.gguf_mixture import FILE_TYPES
from vivace.resources import embedded_model_path

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import llama_cpp_files as peer

WINDOW = 512
TYPES = ("BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0")
KV_TYPES = {"f32": ("f32", "f32"), "16 bit": ("bf16", "f16")}  # ours and llama.cpp's


def read_text(path: Path, limit: int = 4_000_000) -> str:
    if path.suffix == ".jsonl":
        return "\n\n".join(json.loads(line)["text"] for line in path.open())[:limit]
    with lzma.open(path, "rt") if path.suffix == ".xz" else path.open() as file:
        return file.read(limit)


def windows(directory: Path, text: str, count: int) -> list[list[int]]:
    tokens = load_tokenizer(directory).encode(text[: count * WINDOW * 8])
    return [tokens[at : at + WINDOW] for at in range(0, len(tokens) - WINDOW + 1, WINDOW)][:count]


class Reference:
    """transformers, float32."""

    def __init__(self, directory: Path) -> None:
        torch.set_num_threads(1)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def logits(self, tokens: list[int]) -> np.ndarray:
        with torch.no_grad():
            return self.model(torch.tensor([tokens])).logits[0].numpy()

    def importance(self, calibration: list[list[int]]) -> dict[str, np.ndarray]:
        """Mean square of each input of every matrix, by the matrix's name."""
        sums: dict[str, torch.Tensor] = {}

        def watch(name: str, inputs: torch.Tensor) -> None:
            squares = inputs.double().square().reshape(-1, inputs.shape[-1]).sum(0)
            sums[name] = sums.get(name, torch.zeros(())) + squares

        hooks = [
            module.register_forward_pre_hook(lambda _, inputs, name=f"{name}.weight": watch(name, inputs[0]))
            for name, module in self.model.named_modules()
            if isinstance(module, torch.nn.Linear)
        ]
        for tokens in calibration:
            self.logits(tokens)
        for hook in hooks:
            hook.remove()
        return {name: (total / (len(calibration) * WINDOW)).float().numpy() for name, total in sums.items()}


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


class Divergence:
    """Figures of one engine on one file, over all windows."""

    def __init__(self, reference: list[np.ndarray], text: list[list[int]]) -> None:
        self.reference, self.text = reference, text

    def row(self, model: EngineModel | peer.LlamaCppModel) -> tuple[float, float, float, float]:
        """Mean and p99 KL, agreement, perplexity ratio."""
        divergences, agreements, nats = [], [], 0.0
        for expected, tokens in zip(self.reference, self.text, strict=True):
            actual = log_probabilities(model.logits(tokens))
            divergences.append((np.exp(expected) * (expected - actual)).sum(axis=-1))
            agreements.append(expected.argmax(axis=-1) == actual.argmax(axis=-1))
            following = np.arange(len(tokens) - 1), np.asarray(tokens[1:])
            nats += float((expected[following] - actual[following]).sum())
        every = np.concatenate(divergences)
        ratio = float(np.exp(nats / sum(len(tokens) - 1 for tokens in self.text)))
        return float(every.mean()), float(np.quantile(every, 0.99)), float(np.concatenate(agreements).mean()), ratio


def files(
    directory: Path, folder: Path, types: list[str], importance: dict[str, np.ndarray]
) -> Iterator[tuple[str, str, Path]]:
    """(type, who made it, file)."""
    source = folder / "source.gguf"
    export_gguf(directory, source, "F32")
    by_name = gguf_importance(directory, importance)
    layers = {name: values for name, values in by_name.items() if name.startswith("blk.")}
    for kind in types:
        path = folder / f"{kind}.gguf"
        export_gguf(directory, path, kind, importance)
        yield kind, "Vivace", path
        if kind not in ("F32", "F16", "BF16"):
            for label, matrix in (("llama.cpp", layers), ("llama.cpp + output", by_name)):
                path = folder / f"{kind}-{label}.gguf"
                peer.quantize(source, path, FILE_TYPES[kind], matrix)
                yield kind, label, path


def main() -> None:
    parser = argparse.ArgumentParser(description="Quality of GGUF files, ours and llama.cpp's.")
    parser.add_argument("model", nargs="?", type=Path, default=embedded_model_path())
    parser.add_argument("--calibration", type=Path, required=True, help="text, .jsonl with `text`, or .xz")
    parser.add_argument("--text", type=Path, required=True, help="what is measured on; another one")
    parser.add_argument("--types", nargs="+", default=list(TYPES), choices=list(FILE_TYPES))
    parser.add_argument("--chunks", type=int, default=32, help="windows of 512 tokens, of each text")
    parser.add_argument("--kv", default="f32", choices=list(KV_TYPES), help="the same key/value cache for both")
    options = parser.parse_args()
    reference = Reference(options.model)
    importance = reference.importance(windows(options.model, read_text(options.calibration), options.chunks))
    text = windows(options.model, read_text(options.text), options.chunks)
    divergence = Divergence([log_probabilities(reference.logits(tokens)) for tokens in text], text)
    ours_kv, theirs_kv = KV_TYPES[options.kv]
    print(
        "| type | made by | MB | run by | KL mean | KL p99 | top-1 | perplexity |\n|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for kind, maker, path in files(options.model, Path(folder), options.types, importance):
            size = path.stat().st_size / 1e6
            theirs = peer.LlamaCppModel(path, WINDOW, theirs_kv)
            for engine, model in (("Vivace", EngineModel(path, WINDOW, ours_kv)), ("llama.cpp", theirs)):
                mean, p99, agreement, ratio = divergence.row(model)
                print(
                    f"| {kind} | {maker} | {size:.2f} | {engine} | {mean:.6f} | {p99:.5f} | {agreement:.4f} "
                    f"| x {ratio:.5f} |",
                    flush=True,
                )
            theirs.close()


if __name__ == "__main__":
    main()
