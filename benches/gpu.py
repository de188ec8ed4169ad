"""The GPU backend's proof on a device: every kernel, the engine whole, and both beside what the device can do.

    python benches/gpu.py --out DIR [--section ceilings kernels equivalence end-to-end transformers trace]
        [--budget S] [--seed N] [--rounds N] [--only TEXT] [--retry] [--trace FILE] [--note TEXT]
    python benches/gpu.py --out DIR --report
    TRITON_CACHE_DIR=DIR python benches/gpu.py --compile 9.0 [--section ...] [--jobs N]

Each section runs in a process of its own and writes DIR/SECTION.json after each item, so that an item that kills its
process costs only itself, and a run that is cut off goes on where it was when the same command is given again. The
tables, and the targets beside what was reached, are printed at the end and written to DIR/report.md. --budget: begin
nothing that would end later. Exit code 0: all done and right; 1: something failed, is wrong or was left; 2: no
device. --compile: see `gpu.compile_ahead`; without it each kernel is compiled when its item comes.

    ceilings      copies, reads and dense products of each type; the cost of a launch
    kernels       each operation, encoding and cache type against the reference in float32 on fresh random inputs
                  (--seed), by events in the device's queue, in turn with torch's way to do the same
    equivalence   tokens served batched, static, in chunks, preempted, from cached prefixes and with guesses, beside
                  those served alone and those of the reference backend
    end-to-end    decode at 1, 8, 64 and 256 streams, prefill of 2k and 16k, of Llama's 1B and 8B shapes
    transformers  the same requests in transformers
    trace         TTFT and ITL under a replayed trace
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

try:
    import torch
except ImportError as error:
    print(f"benches/gpu.py: {error}: pip install 'vivace[gpu]'", file=sys.stderr)
    sys.exit(2)

from gpu.ledger import Ledger, ledger_path
from gpu.report import failures, report
from gpu.setting import SECTIONS, Setting
from gpu.worker import DONE, ITEMS, LOST_DEVICE, OUT_OF_TIME, work

DRY = ("kernels", "equivalence", "end-to-end")  # the others launch what these do
MOST_DEATHS = 12  # of one section's process: then the rest of it is left


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    if options.compile is not None:
        return compile_sections(options)
    if options.device == "cuda" and not torch.cuda.is_available() and not options.report:
        print("benches/gpu.py: no CUDA device is at hand: nothing was measured", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    if options.worker:
        return work(options.section[0], setting_of(options), options.only)
    is_whole = options.report or run_sections(options)
    text = report(options.out)
    (options.out / "report.md").write_text(text + "\n")
    print(text, flush=True)
    records = {name: Ledger(ledger_path(options.out, name)).records for name in SECTIONS}
    return 0 if is_whole and not list(failures(records)) else 1


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder of the results")
    parser.add_argument("--section", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--only", default="", help="items whose names contain this")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds for all sections")
    parser.add_argument("--seed", type=int, default=None, help="of all inputs; drawn where it is not given")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--trace", default=None, help="a trace to replay, as `vivace bench serve --trace` takes them")
    parser.add_argument("--note", default="", help="kept with the results: the commit, for instance")
    parser.add_argument("--retry", action="store_true", help="measure again what failed or was wrong")
    parser.add_argument("--report", action="store_true", help="measure nothing: print what DIR holds")
    parser.add_argument(
        "--compile", type=capability_of, metavar="CAPABILITY", help="measure nothing: compile kernels"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="of --compile: kernels at a time")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: torch's, for tests")
    parser.add_argument("--tiny", action="store_true", help="shapes for tests")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.seed = int(time.time_ns() % (1 << 31)) if options.seed is None else options.seed
    options.deadline = time.time() + options.budget if options.deadline is None else options.deadline
    return options


def capability_of(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def compile_sections(options: argparse.Namespace) -> int:
    """On torch's CPU device, where there is a GPU too."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from gpu.compile_ahead import compile_ahead
    from gpu.dry_run import dry_run

    with tempfile.TemporaryDirectory() as folder:
        setting = Setting("cpu", Path(folder), options.seed, rounds=1, is_tiny=options.tiny, is_interpreted=True)
        with dry_run(setting, options.compile):
            items = (item for name in options.section if name in DRY for item in ITEMS[name](setting))
            runs = [(item.key, item.measure) for item in items if options.only in item.key]
            return min(1, compile_ahead(runs, options.compile, options.jobs))


def setting_of(options: argparse.Namespace) -> Setting:
    return Setting(
        device=options.device,
        out=options.out,
        seed=options.seed,
        rounds=options.rounds,
        deadline=options.deadline,
        is_tiny=options.tiny,
        trace=options.trace,
        note=options.note,
    )


def run_sections(options: argparse.Namespace) -> bool:
    """Whether every section that was asked for is done."""
    print(f"seed {options.seed}, results in {options.out}", flush=True)
    for path in (ledger_path(options.out, section) for section in options.section if options.retry):
        if path.exists():
            Ledger(path).forget_failures()
    done = [run_section(section, options) for section in options.section]
    return all(done)


def run_section(section: str, options: argparse.Namespace) -> bool:
    """In processes of its own: one that dies leaves its item with the reason, and the next goes on behind it."""
    for _ in range(MOST_DEATHS):
        code = subprocess.run(_command(section, options), check=False).returncode
        if code == DONE:
            return True
        if code == OUT_OF_TIME:
            return False
        if code != LOST_DEVICE:
            ledger = Ledger(ledger_path(options.out, section))
            buried = ledger.bury(f"the process died with exit code {code}: its output says why")
            if buried is None:
                print(f"{section}: did not start, exit code {code}", flush=True)
                return False
    print(f"{section}: died {MOST_DEATHS} times", flush=True)
    return False


def _command(section: str, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, __file__, "--worker", "--section", section, "--out", str(options.out)]
    command += ["--seed", str(options.seed), "--rounds", str(options.rounds), "--device", options.device]
    command += ["--deadline", str(options.deadline), "--only", options.only, "--note", options.note]
    command += ["--tiny"] if options.tiny else []
    return command if options.trace is None else [*command, "--trace", options.trace]


if __name__ == "__main__":
    sys.exit(main())
