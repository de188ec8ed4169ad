"""Checkpoints of a training run: a folder `step-000500` that is whole or absent, without pickle.

model.safetensors       the weights as trained (float32), named as Hugging Face names them
optimizer.safetensors   `<optimizer index>.<parameter index>.<state>` for each state tensor
state.json              model shape, step, seconds trained, the loss curve
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.model import Llama, LlamaShape


@dataclass
class Progress:
    """Where a run stands. Curves are (step, tokens, nats a token)."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    final_context: int = 0
    final_fraction: float = 0.0  # of the schedule, at final_context
    train_curve: list[tuple[int, int, float]] = field(default_factory=list)
    heldout_curve: list[tuple[int, int, float]] = field(default_factory=list)


def latest(run: Path) -> Path | None:
    """The newest checkpoint of a run's folder."""
    return max(run.glob("step-[0-9]*"), default=None)


def save(run: Path, model: Llama, optimizers: list[torch.optim.Optimizer], progress: Progress) -> Path:
    """Writes a checkpoint beside its final name, syncs, renames, then removes those before it."""
    final = run / f"step-{progress.step:06}"
    partial = run / f"partial-{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(_contiguous(model.state_dict()), partial / "model.safetensors")
    save_file(_contiguous(_optimizer_tensors(optimizers)), partial / "optimizer.safetensors")
    state = {"shape": asdict(model.shape), "progress": asdict(progress)}
    (partial / "state.json").write_text(json.dumps(state) + "\n")
    for file in partial.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    for older in sorted(run.glob("step-[0-9]*"))[:-1]:
        shutil.rmtree(older)
    return final


def load_model(checkpoint: Path) -> tuple[Llama, Progress]:
    """The model in float32 on the CPU, and where its run stood."""
    state = json.loads((checkpoint / "state.json").read_text())
    model = Llama(LlamaShape(**state["shape"]))
    model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    return model, Progress(**state["progress"])


def load_optimizers(checkpoint: Path, optimizers: list[torch.optim.Optimizer]) -> None:
    tensors = load_file(checkpoint / "optimizer.safetensors")
    for index, optimizer in enumerate(optimizers):
        whole = optimizer.state_dict()
        whole["state"] = {}
        for name, tensor in tensors.items():
            owner, parameter, key = name.split(".")
            if int(owner) == index:
                whole["state"].setdefault(int(parameter), {})[key] = tensor
        optimizer.load_state_dict(whole)


def _optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{parameter}.{key}": tensor
        for index, optimizer in enumerate(optimizers)
        for parameter, state in optimizer.state_dict()["state"].items()
        for key, tensor in state.items()
    }


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
