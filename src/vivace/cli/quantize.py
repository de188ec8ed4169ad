"""`vivace quantize`: smaller weights by any method, and what they cost."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vivace.cli.options import OptionGroup, Parameter, takes

if TYPE_CHECKING:
    from vivace.quantize.quantization import QuantizationResult


OPTIONS: dict[str, tuple[Any, tuple[str, ...], str]] = {  # name: what it parses to, its flags, its help text
    "bits": (int, ("--bits",), "4 or 8; default: 4."),
    "group_size": (int, ("--group-size",), "Inputs that share a scale; -1: all of a row. Default: 128."),
    "symmetric": (bool, ("--sym/--asym",), "Zero in the middle of the levels, or a zero point a group."),
    "format": (str, ("--format",), "gptq, awq, compressed-tensors, bitsandbytes, gguf or dense; by the method."),
    "gguf_type": (str, ("--gguf-type",), "Of a GGUF file: Q4_K_M, Q5_K_M, Q6_K, Q8_0, Q4_0, F16, BF16."),
    "target_bits": (float, ("--target-bits",), "Of mixed: bits a weight, scales included. Default: 4.5."),
    "skip_layers": (str, ("--skip-layers",), "Stay float: layer numbers and parts of tensor names, with commas."),
    "calibration": (str, ("--calibration",), "Text or JSONL file (chats or text); default: the package's sample."),
    "imatrix": (
        Path,
        ("--imatrix",),
        "Of GGUF: llama.cpp's importance matrix (.gguf, .dat), instead of calibration.",
    ),
    "save_imatrix": (Path, ("--save-imatrix",), "Of GGUF: write what calibration found, for `llama-quantize` too."),
    "num_samples": (int, ("--num-samples",), "Windows of calibration text. Default: 128."),
    "seq_len": (int, ("--seq-len",), "Tokens of a window. Default: 512."),
    "damping": (float, ("--damping",), "Of GPTQ: share of the mean diagonal. Default: 0.01."),
    "act_order": (bool, ("--act-order/--no-act-order",), "Of GPTQ: inputs that matter most go first."),
    "alpha": (float, ("--alpha",), "Of SmoothQuant: what the weights take over. Default: 0.5."),
    "seed": (int, ("--seed",), "Which pieces of the calibration text are read. Default: 0."),
}


def _parameter(name: str) -> Parameter:
    kind, flags, help_text = OPTIONS[name]
    annotation = Annotated[kind | None, typer.Option(*flags, help=help_text)]  # type: ignore[valid-type]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


QUANTIZATION = OptionGroup(tuple(_parameter(name) for name in OPTIONS), dict)


@takes(asked=QUANTIZATION)
def quantize(
    asked: dict[str, Any],
    method: Annotated[
        str, typer.Option(help="rtn, w8a8, llm-int8, smoothquant, gptq, awq, gguf or mixed (bits by sensitivity).")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="New folder, or FILE.gguf; a run that was cut off goes on.")
    ],
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Folder or hub name of the float model; default: the embedded one."),
    ] = None,
    report: Annotated[bool, typer.Option(help="Measure size, speed and quality, before and after.")] = False,
    report_text: Annotated[
        Path | None, typer.Option(help="UTF-8 text to measure quality on; default: the package's sample.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Quantize a model: any method, in formats that others read."""
    from vivace.cli.stages import stage_bars
    from vivace.quantize.options import quantize_options
    from vivace.quantize.quantization import quantize_model

    options = quantize_options(method, **asked | {"skip_layers": _parts(asked["skip_layers"])})
    text = _report_text(report_text) if report else ""
    with stage_bars() as progress:
        files = {name: asked[name] for name in ("calibration", "imatrix", "save_imatrix")}
        result = quantize_model(model, output, options, **files, progress=progress)
    facts = {"model": model or "embedded", **asdict(options), **asdict(result), "output": str(result.output)}
    if not report:
        print(json.dumps(facts) if as_json else _summary(result))
        return
    from vivace.cli.quantize_report import lines, measure_both

    with stage_bars() as progress:
        comparison = measure_both(model, result, text, progress)
    if as_json:
        print(json.dumps({**facts, "report": asdict(comparison)}))
        return
    print(_summary(result), *lines(comparison, result), sep="\n")


def _parts(listed: str | None) -> tuple[str, ...] | None:
    return None if listed is None else tuple(part.strip() for part in listed.split(",") if part.strip())


def _report_text(path: Path | None) -> str:
    if path is None:
        from vivace.evaluate.evaluation import sample_text

        return sample_text()
    from vivace.formats.text_file import read_text

    return read_text(path)


def _summary(result: QuantizationResult) -> str:
    """One line: where, how large, on what data."""
    bits = "" if result.mean_bits is None else f", {result.mean_bits:.3f} bits a weight of the layers"
    sizes = f"{result.source_bytes / 1e6:.2f} MB to {result.output_bytes / 1e6:.2f} MB"
    if sys.stdout.isatty() and result.output.is_dir():
        print(f"vivace chat {result.output}", file=sys.stderr)
    return f"{result.output}: {sizes}{bits}; calibrated on {result.data}"
