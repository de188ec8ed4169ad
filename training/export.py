"""Writes a trained checkpoint as a Hugging Face model folder with its card.

The weights are rounded to bfloat16 first and the held-out text is measured on those, so that the card's numbers are
of the file it describes. Every predicted token counts once, in windows without overlap; bits per byte divide by the
bytes of the held-out text and so compare across tokenizers.
"""

import argparse
import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from safetensors.torch import save_file

from training import checkpoint
from training.checkpoint import Progress
from training.model import Llama
from training.prepare import END_OF_TEXT, END_OF_TURN, special_id
from training.tokens import heldout_windows

EMBEDDED_CARD = Path(__file__).with_name("embedded_card.md")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Quality:
    """On windows of the held-out text: mean nats a token, perplexity, bits per byte."""

    num_windows: int
    context: int
    nats_per_token: float
    perplexity: float
    bits_per_byte: float


@torch.no_grad()
def measure(model: Llama, data: Path, context: int, limit: int | None = None) -> Quality:
    """Quality over the whole of `heldout.npy`, or over `limit` windows spread evenly over it."""
    corpus = json.loads((data / "corpus.json").read_text())
    nats, tokens, windows = 0.0, 0, 0
    for rows in track(list(heldout_windows(data / "heldout.npy", context, 4, limit)), description="measuring"):
        nats += model.loss(rows, reduction="sum").item()
        tokens += rows[:, 1:].numel()
        windows += len(rows)
    mean = nats / tokens
    bits_per_byte = mean / math.log(2) * corpus["heldout_tokens"] / corpus["heldout_bytes"]
    return Quality(windows, context, mean, math.exp(mean), bits_per_byte)


def llama_config(model: Llama) -> dict[str, Any]:
    """config.json of `LlamaForCausalLM`."""
    end_of_text = special_id(END_OF_TEXT)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **asdict(model.shape),
        "head_dim": model.shape.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "torch_dtype": "bfloat16",
    }


def generation_config() -> dict[str, Any]:
    end_of_text, end_of_turn = special_id(END_OF_TEXT), special_id(END_OF_TURN)
    return {
        "bos_token_id": end_of_text,
        "eos_token_id": [end_of_text, end_of_turn],
        "pad_token_id": end_of_text,
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
    }


def model_card(template: str, model: Llama, corpus: dict[str, Any], progress: Progress, quality: Quality) -> str:
    """The card's template, a `str.format` text, filled with the facts of this model."""
    num_windows = quality.num_windows
    return template.format(
        shape=model.shape,
        million_parameters=model.num_parameters() / 1e6,
        files=", ".join(f"`{name}`" for name in corpus["files"]),
        corpus=corpus,
        progress=progress,
        minutes=progress.seconds / 60,
        training_loss=progress.train_curve[-1][2],
        quality=quality,
        measured=f"{num_windows} windows of {quality.context} tokens",
    )


def export(options: argparse.Namespace) -> Quality:
    """Writes the folder beside its final name and renames it; an older export of that name goes."""
    newest = checkpoint.latest(options.run)
    if newest is None:
        raise FileNotFoundError(f"no checkpoint in {options.run}: run training.train first")
    model, progress = checkpoint.load_model(newest)
    model.to(torch.bfloat16).to(torch.float32)
    context = options.context or model.shape.max_position_embeddings
    quality = measure(model, options.data, context, options.heldout_windows)
    partial = options.output.with_name(f"partial-{options.output.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    (partial / "model.safetensors").chmod(0o644)  # safetensors makes it private, which a wheel would keep
    for name, content in (("config.json", llama_config(model)), ("generation_config.json", generation_config())):
        (partial / name).write_text(json.dumps(content, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        shutil.copy(options.data / name, partial / name)
    corpus = json.loads((options.data / "corpus.json").read_text())
    card = model_card(options.card.read_text(), model, corpus, progress, quality)
    (partial / "README.md").write_text(card)
    shutil.rmtree(options.output, ignore_errors=True)
    partial.rename(options.output)
    return quality


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.export", description="Checkpoint to model folder.")
    parser.add_argument("--data", type=Path, required=True, help="folder that training.prepare wrote")
    parser.add_argument("--run", type=Path, required=True, help="folder that training.train wrote")
    parser.add_argument("--output", type=Path, required=True, help="model folder to write")
    parser.add_argument("--card", type=Path, default=EMBEDDED_CARD, help="template of the model card")
    parser.add_argument("--context", type=int, help="tokens of a held-out window (default: the model's positions)")
    parser.add_argument("--heldout-windows", type=int, help="measure on so many windows (default: the whole text)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(json.dumps(asdict(export(parse_options())), indent=2))
