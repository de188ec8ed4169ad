"""Writes a trained checkpoint as a Hugging Face model folder with its card, and as GGUF where asked.

The weights are rounded to bfloat16 and the held-out text is measured on the files written, by the engine that serves
them: `vivace evaluate` gives the card's figures again.
"""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from training import cards, checkpoint
from training.checkpoint import Progress
from training.distillation import Acceptance, measure_acceptance
from training.model import Llama
from training.prepare import END_OF_TEXT, END_OF_TURN, HELDOUT_TEXT, special_id
from training.tokens import heldout_windows
from vivace.engine.llm import LLM
from vivace.evaluate.perplexity import PerplexityResult, perplexity
from vivace.quantize.gguf_export import export_gguf

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
ACCEPTANCE_WINDOWS, ACCEPTANCE_CONTEXT = 64, 512


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


def load_rounded(run: Path) -> tuple[Llama, Progress]:
    """The model of a run as its bfloat16 file will hold it, and where the run stood."""
    newest = checkpoint.latest(run)
    if newest is None:
        raise FileNotFoundError(f"no checkpoint in {run}: run training.train first")
    model, progress = checkpoint.load_model(newest)
    return model.to(torch.bfloat16).to(torch.float32), progress


def write_model(model: Llama, data: Path, folder: Path) -> None:
    """All but the card."""
    weights = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it private, which a wheel would keep
    for name, content in (("config.json", llama_config(model)), ("generation_config.json", generation_config())):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        shutil.copy(data / name, folder / name)


def draft_acceptance(draft: Llama, target: Llama, data: Path) -> Acceptance:
    context = min(ACCEPTANCE_CONTEXT, draft.shape.max_position_embeddings)
    windows = heldout_windows(data / "heldout.npy", context, 4, ACCEPTANCE_WINDOWS)
    return measure_acceptance(draft, target, windows)


def export(options: argparse.Namespace) -> PerplexityResult:
    """Writes the folder beside its final name and renames it; an older export of that name goes."""
    model, progress = load_rounded(options.run)
    partial = options.output.with_name(f"partial-{options.output.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_model(model, options.data, partial)
    llm = LLM(str(partial))
    measured = perplexity(llm, (options.data / HELDOUT_TEXT).read_text(encoding="utf-8"))
    facts = cards.model_facts(options.data, model, progress, measured)
    if options.target is None:
        card = cards.render("embedded", facts | {"samples": cards.samples(llm)})
    else:
        target, _ = load_rounded(options.target)
        acceptance = draft_acceptance(model, target, options.data)
        card = cards.render("draft", facts | cards.draft_facts(model, target, acceptance))
    (partial / "README.md").write_text(card)
    shutil.rmtree(options.output, ignore_errors=True)
    partial.rename(options.output)
    if options.gguf is not None:
        export_gguf(options.output, options.output.with_suffix(".gguf"), options.gguf)
    return measured


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.export", description="Checkpoint to model folder.")
    parser.add_argument("--data", type=Path, required=True, help="folder that training.prepare wrote")
    parser.add_argument("--run", type=Path, required=True, help="folder that training.train wrote")
    parser.add_argument("--output", type=Path, required=True, help="model folder to write")
    parser.add_argument("--target", type=Path, help="the model is a draft for this run's: measures its acceptance")
    parser.add_argument("--gguf", choices=("f32", "f16", "bf16", "q8_0", "q4_0"), help="also as OUTPUT.gguf")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(json.dumps(asdict(export(parse_options())), indent=2))
