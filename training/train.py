"""Trains a Llama on prepared token shards, on the CPU or one GPU.

Muon (Jordan et al., 2024) moves the matrices and AdamW the embedding and the norms, both on one cosine schedule with
warm-up (training.schedule), over `--steps` or, with `--minutes`, over the time trained. With `--steps`
alone a run repeats bit for bit from its seed. An interrupt or SIGTERM saves first; started again with
the same `--run`, it goes on from the newest checkpoint. The folder also holds `loss.png` and, at the end, the
checkpoint that training.export reads.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar
from torch import Tensor

from training import checkpoint
from training.checkpoint import Progress
from training.distillation import DistillationLoss, inherit_embeddings
from training.model import Llama, LlamaShape
from training.schedule import Schedule, StepClock
from training.tokens import TokenShards, heldout_windows
from training.workers import Workers

matplotlib.use("Agg")
HELDOUT_WINDOWS = 24


def build_optimizers(model: Llama, learning_rate: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim < 2 or "embed_tokens" in name]
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


class Trainer:
    def __init__(self, options: argparse.Namespace, workers: Workers | None = None) -> None:
        self.options = options
        self.workers = workers or Workers(1, 0, None, [])
        self.console = Console(quiet=self.workers.rank > 0)
        self.asked_to_stop = self.stopping = False  # the second is what all processes agreed on in a step
        self.seconds_of_last_step = 0.0
        contexts = {options.context, options.final_context or options.context}
        self.shards = {context: TokenShards(options.data, context, options.seed) for context in contexts}
        torch.manual_seed(options.seed)
        newest = checkpoint.latest(options.run)
        if newest:
            self.model, self.progress = checkpoint.load_model(newest)
            self.console.print(f"going on from {newest}")
        else:
            self.model, self.progress = Llama(shape_of(options)), Progress()
        self.progress.final_context = options.final_context or options.context
        self.progress.final_fraction = options.final_fraction if options.final_context else 1.0
        self.schedule, self.clock = Schedule(options, self.progress), StepClock()
        self.model.to(options.device)
        self.optimizers = build_optimizers(self.model, options.learning_rate, options.weight_decay)
        if newest:
            checkpoint.load_optimizers(newest, self.optimizers)
        self.workers.wait()  # rank 0 removes old checkpoints: all read before it goes on
        self.plain_loss = self._loss_of_run()
        self.compiled_loss = torch.compile(self.plain_loss) if options.compile else self.plain_loss

    def _loss_of_run(self) -> Callable[[Tensor], Tensor]:
        """Against the text, or against a teacher's distribution."""
        if self.options.teacher is None:
            return self.model.loss
        newest = checkpoint.latest(self.options.teacher)
        if newest is None:
            raise FileNotFoundError(f"no checkpoint in {self.options.teacher}: train the teacher first")
        teacher, _ = checkpoint.load_model(newest)
        if self.progress.step == 0:
            inherit_embeddings(self.model, teacher)
        return DistillationLoss(self.model, teacher.to(self.options.device)).of

    def loss(self, tokens_BT: Tensor) -> Tensor:
        """Compiled for the main context alone: for the short end of a schedule that takes longer than it saves."""
        main = tokens_BT.shape[1] == self.options.context + 1
        return self.compiled_loss(tokens_BT) if main else self.plain_loss(tokens_BT)

    def precision(self) -> AbstractContextManager[None]:
        return torch.autocast(self.options.device, torch.bfloat16, enabled=self.options.bf16)

    def step(self) -> float:
        """One optimizer step on one batch; returns its loss in nats a token."""
        started, schedule = time.perf_counter(), self.schedule
        shards = self.shards[schedule.context]
        rows = shards.batch(self.progress.tokens, schedule.num_windows).to(self.options.device)
        total = 0.0
        for part in self.workers.share(rows).split(schedule.micro_batch):
            with self.precision():
                loss = self.loss(part) * (len(part) / len(rows))
            loss.backward()
            total += loss.item()
        first = self.workers.rank == 0  # the one whose clock counts
        facts = [total, self.seconds_of_last_step if first else 0.0, float(self.asked_to_stop)]
        total, seconds, stopping = self.workers.sum_gradients(list(self.model.parameters()), facts)
        self.stopping = stopping > 0
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += rows[:, 1:].numel()
        self.progress.seconds += seconds
        self.seconds_of_last_step = self.clock.charge(time.perf_counter() - started)
        return total

    @torch.no_grad()
    def heldout_loss(self) -> float:
        """Nats a token on windows spread over the held-out file."""
        total, count = 0.0, 0
        windows = heldout_windows(
            self.options.data / "heldout.npy", self.options.context, self.options.micro_batch, HELDOUT_WINDOWS
        )
        for rows in windows:
            with self.precision():
                total += self.model.loss(rows.to(self.options.device), reduction="sum").item()
            count += rows[:, 1:].numel()
        return total / count

    def milestone(self) -> None:
        """Measures, saves and draws; the other processes wait."""
        progress = self.progress
        progress.heldout_curve.append((progress.step, progress.tokens, self.heldout_loss()))
        checkpoint.save(self.options.run, self.model, self.optimizers, progress)
        draw_curves(progress, self.options.run / "loss.png")
        self.console.print(
            f"step {progress.step}, {progress.tokens / 1e6:.2f}M tokens, {progress.seconds:.0f} s: "
            f"training loss {progress.train_curve[-1][2]:.3f}, held-out {progress.heldout_curve[-1][2]:.3f}"
        )

    def stop(self, *_: object) -> None:
        """Ends the run after this step; it can go on from the checkpoint that is then saved."""
        self.asked_to_stop = True

    def run(self) -> Progress:
        bar = ProgressBar(
            BarColumn(),
            TextColumn("{task.percentage:.1f}% {task.description}"),
            TimeElapsedColumn(),
            console=self.console,
        )
        average = self.progress.train_curve[-1][2] if self.progress.train_curve else None
        with bar:
            task = bar.add_task("starting", total=1.0)
            while self.schedule.fraction < 1.0 and not self.stopping:
                loss = self.step()
                average = loss if average is None else 0.95 * average + 0.05 * loss
                speed = self.progress.tokens / max(self.progress.seconds, 1e-9)
                bar.update(
                    task, completed=self.schedule.fraction, description=f"loss {average:.3f}, {speed:.0f} tok/s"
                )
                ended = self.stopping or self.schedule.fraction >= 1.0
                if ended or self.progress.step % self.options.milestone_steps == 0:
                    self.progress.train_curve.append((self.progress.step, self.progress.tokens, average))
                    if self.workers.rank == 0:
                        self.milestone()
                    self.workers.wait()
        return self.progress


def draw_curves(progress: Progress, path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for label, curve in (("training", progress.train_curve), ("held-out", progress.heldout_curve)):
        axes.plot([tokens / 1e6 for _, tokens, _ in curve], [loss for _, _, loss in curve], label=label)
    axes.set(xlabel="million tokens", ylabel="nats a token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def shape_of(options: argparse.Namespace) -> LlamaShape:
    return LlamaShape(
        vocab_size=options.vocab_size,
        hidden_size=options.hidden,
        intermediate_size=options.intermediate,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        max_position_embeddings=options.max_length,
    )


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.train", description="Train a small Llama.")
    parser.add_argument("--data", type=Path, required=True, help="folder that training.prepare wrote")
    parser.add_argument("--run", type=Path, required=True, help="folder of checkpoints; an existing run goes on")
    parser.add_argument("--teacher", type=Path, help="folder of another run, whose distribution is learnt instead")
    parser.add_argument("--steps", type=int, help="optimizer steps in all")
    parser.add_argument("--minutes", type=float, help="minutes of training in all")
    shape = parser.add_argument_group("shape")
    shape.add_argument("--vocab-size", type=int, default=4096)
    shape.add_argument("--hidden", type=int, default=256)
    shape.add_argument("--intermediate", type=int, default=768)
    shape.add_argument("--layers", type=int, default=4)
    shape.add_argument("--heads", type=int, default=8)
    shape.add_argument("--kv-heads", type=int, default=4)
    shape.add_argument("--max-length", type=int, default=1024, help="positions that the model declares")
    parser.add_argument("--context", type=int, default=512, help="tokens of a training window")
    parser.add_argument("--final-context", type=int, help="tokens of a window at the end of the schedule")
    parser.add_argument("--final-fraction", type=float, default=0.15, help="of the schedule, at --final-context")
    parser.add_argument("--batch", type=int, default=8, help="windows of a step")
    parser.add_argument("--final-batch", type=int, help="windows of the last step; the number grows up to it")
    parser.add_argument("--micro-batch", type=int, default=8, help="windows of one forward pass")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--warmup", type=float, default=0.03, help="fraction of the schedule")
    parser.add_argument("--milestone-steps", type=int, default=200, help="measure and save so often")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile the loss")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, help="CPU threads of a process")
    parser.add_argument("--processes", type=int, default=1, help="processes that share a step's windows")
    parser.add_argument("--rank", type=int, default=0, help="set by the first process for the others")
    parser.add_argument("--meeting", type=Path, help="set by the first process for the others")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not options.steps and not options.minutes:
        parser.error("say when to end: --steps, --minutes or both")
    if max(options.context, options.final_context or 0) > options.max_length:
        parser.error("--context and --final-context must not exceed --max-length")
    return options


if __name__ == "__main__":
    chosen = parse_options()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    crew = Workers(chosen.processes, chosen.rank, chosen.meeting, sys.argv[1:])
    trainer = Trainer(chosen, crew)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, trainer.stop)
    trainer.run()
    crew.close()
