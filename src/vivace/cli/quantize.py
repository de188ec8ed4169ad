"""`vivace quantize`: smaller weights by any method, and what they cost."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vivace.cli.stages import stage_bars
from vivace.core.errors import ConfigError

if TYPE_CHECKING:
    from vivace.quantize.quantization import QuantizationResult


def quantize(
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
    bits: Annotated[int | None, typer.Option(help="4 or 8; default: 4.")] = None,
    group_size: Annotated[
        int | None, typer.Option(help="Inputs that share a scale; -1: all of a row. Default: 128.")
    ] = None,
    symmetric: Annotated[
        bool | None, typer.Option("--sym/--asym", help="Zero in the middle of the levels, or a zero point a group.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="gptq, awq, compressed-tensors, bitsandbytes, gguf or dense; by the method.")
    ] = None,
    gguf_type: Annotated[
        str | None, typer.Option(help="Of a GGUF file: Q4_K_M, Q5_K_M, Q6_K, Q8_0, Q4_0, F16, BF16.")
    ] = None,
    target_bits: Annotated[
        float | None, typer.Option(help="Of mixed: bits a weight, scales included. Default: 4.5.")
    ] = None,
    skip_layers: Annotated[
        str | None, typer.Option(help="Stay float: layer numbers and parts of tensor names, with commas.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="Text or JSONL file (chats or text); default: the package's sample.")
    ] = None,
    num_samples: Annotated[int | None, typer.Option(help="Windows of calibration text. Default: 128.")] = None,
    seq_len: Annotated[int | None, typer.Option(help="Tokens of a window. Default: 512.")] = None,
    damping: Annotated[float | None, typer.Option(help="Of GPTQ: share of the mean diagonal. Default: 0.01.")] = None,
    act_order: Annotated[
        bool | None, typer.Option("--act-order/--no-act-order", help="Of GPTQ: inputs that matter most go first.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Of SmoothQuant: what the weights take over. Default: 0.5.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which pieces of the calibration text are read.")] = 0,
    report: Annotated[bool, typer.Option(help="Measure size, speed and quality, before and after.")] = False,
    report_text: Annotated[
        Path | None, typer.Option(help="UTF-8 text to measure quality on; default: the package's sample.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Quantize a model: any method, in formats that others read."""
    from vivace.quantize.options import quantize_options
    from vivace.quantize.quantization import quantize_model

    options = quantize_options(
        method,
        bits=bits,
        group_size=group_size,
        symmetric=symmetric,
        format=format,
        gguf_type=gguf_type,
        target_bits=target_bits,
        skip_layers=_parts(skip_layers),
        calibration=calibration,
        num_samples=num_samples,
        seq_len=seq_len,
        damping=damping,
        act_order=act_order,
        alpha=alpha,
        seed=seed,
    )
    text = _report_text(report_text) if report else ""
    with stage_bars() as progress:
        result = quantize_model(model, output, options, calibration=calibration, progress=progress)
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
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})") from None


def _summary(result: QuantizationResult) -> str:
    """One line: where, how large, on what data."""
    bits = "" if result.mean_bits is None else f", {result.mean_bits:.3f} bits a weight of the layers"
    sizes = f"{result.source_bytes / 1e6:.2f} MB to {result.output_bytes / 1e6:.2f} MB"
    if sys.stdout.isatty() and result.output.is_dir():
        print(f"vivace chat {result.output}", file=sys.stderr)
    return f"{result.output}: {sizes}{bits}; calibrated on {result.data}"
