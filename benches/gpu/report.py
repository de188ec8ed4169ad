"""What is in the results' folder as Markdown: a table a section, and the targets beside what was reached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu.ledger import Ledger, Record, ledger_path
from gpu.setting import SECTIONS
from gpu.targets import targets

COLUMNS: dict[str, tuple[str, ...]] = {
    "ceilings": ("measured", "best of three medians"),
    "kernels": ("kernel", "us (10% - 90%)", "rate", "of ceiling", "library, us", "error"),
    "equivalence": ("served", "requests", "parted", "largest difference", "allowed", ""),
    "end-to-end": ("model", "ms (p90)", "tokens/s", "of bandwidth", "TFLOP/s", "over the floor"),
    "transformers": ("requests", "vivace tokens/s", "transformers tokens/s", "ratio"),
    "trace": ("served", "TTFT ms p50 / p99", "ITL ms p50 / p99", "requests/s", "tokens/s"),
}


MOST_SHARE = 1.05


def report(out: Path) -> str:
    """Markdown of everything that is there."""
    lines: list[str] = []
    ledgers = {name: Ledger(ledger_path(out, name)) for name in SECTIONS if ledger_path(out, name).exists()}
    for name, ledger in ledgers.items():
        lines += [f"\n## {name}", ", ".join(f"{key} {value}" for key, value in ledger.about.items()), ""]
        lines += [_row(COLUMNS[name]), _row("---" for _ in COLUMNS[name])]
        lines += [_row((key, *cells(name, record))) for key, record in ledger.records.items()]
    records = {name: ledger.records for name, ledger in ledgers.items()}
    lines += ["\n## targets", _row(("target", "wanted", "reached", "")), _row("---" for _ in range(4))]
    lines += [_row((one.name, one.wanted, one.reached, one.verdict)) for one in targets(records)]
    lines += too_fast(records)
    wrong = list(failures(records))
    lines += ["\n## not right, or failed", *(wrong or ["nothing"])]
    return "\n".join(lines)


def failures(records: dict[str, dict[str, Record]]) -> Iterator[str]:
    for section, items in records.items():
        for key, record in items.items():
            if record.get("error"):
                yield f"- {section}, {key}: {record['error']}"
            elif record.get("is_right") is False:
                shown = {name: record[name] for name in _TOLD if name in record}
                yield f"- {section}, {key}: {shown}"


def too_fast(records: dict[str, dict[str, Record]]) -> list[str]:
    """What was faster than the ceiling allows: its inputs lay in a cache, or its bytes are counted wrongly."""
    found = [
        f"- {section}, {key}: {share:.0%}"
        for section, items in records.items()
        for key, record in items.items()
        for share in (record.get("share"), record.get("bandwidth_share"))
        if share is not None and share > MOST_SHARE
    ]
    return ["\n## faster than the ceilings, so not to be believed", *found] if found else []


_TOLD = (
    "of_data_sheet",
    "wanted",
    "relative_error",
    "num_wrong",
    "largest_difference",
    "tolerance",
    "parted_at",
    "num_preemptions",
)


def cells(section: str, record: Record) -> tuple[str, ...]:
    """Of one item's row, behind its name."""
    if record.get("error"):
        return (f"failed: {str(record['error'])[:60]}",)
    return _CELLS[section](record)


def _ceiling(record: Record) -> tuple[str, ...]:
    value, unit = record["value"], record["unit"]
    if value is None:
        return (record["reason"],)
    factor, name = {"bytes/s": (1e9, "GB/s"), "operations/s": (1e12, "TFLOP/s"), "s": (1e-6, "us")}[unit]
    share = f", {record['of_data_sheet']:.0%} of the data sheet" if "of_data_sheet" in record else ""
    return (f"{value / factor:.1f} {name}{share}",)


def _kernel(record: Record) -> tuple[str, ...]:
    error = _error(record)
    if "us" not in record:
        return "", "", "", "", error
    fast = record["bound"] == "memory"
    rate = f"{record['gb_per_s']:.0f} GB/s" if fast else f"{record['tflop_per_s']:.0f} TFLOP/s"
    peers = ", ".join(f"{name} {one['us']:.1f}" for name, one in record["peers"].items())
    times = f"{record['us']:.1f} ({record['us_low']:.1f} - {record['us_high']:.1f})"
    return times, rate, f"{record['share']:.0%} {record['bound']}", peers, error


def _error(record: Record) -> str:
    if "relative_error" in record:
        return f"{record['relative_error']:.1e}"
    return f"{record['num_wrong']} wrong" if "num_wrong" in record else ""


def _equivalence(record: Record) -> tuple[str, ...]:
    right = "right" if record["is_right"] else "WRONG"
    counts = (str(record["num_requests"]), str(record["num_parted"]))
    return (*counts, f"{record['largest_difference']:.4f}", f"{record['tolerance']:g}", right)


def _end_to_end(record: Record) -> tuple[str, ...]:
    step = (
        f"{record['step_ms']:.2f} ({record['step_ms_p90']:.2f})"
        if "step_ms" in record
        else f"{record['ttft_ms']:.1f} to the first token"
    )
    share = f"{record['bandwidth_share']:.0%}" if "bandwidth_share" in record else ""
    over = f"{record['over_floor']:.2f}x of {record['floor_ms']:.2f} ms ({record['bound']})"
    return step, f"{record['tokens_per_s']:.0f}", share, f"{record['tflop_per_s']:.1f}", over


def _transformers(record: Record) -> tuple[str, ...]:
    rates = record["tokens_per_s"]
    return f"{rates['vivace']:.0f}", f"{rates['transformers']:.0f}", f"{record['ratio']:.1f}"


def _trace(record: Record) -> tuple[str, ...]:
    tails = (_tail(record.get(name)) for name in ("ttft_ms", "itl_ms"))
    return (*tails, f"{record['requests_per_s']:.2f}", f"{record['output_tokens_per_s']:.0f}")


def _tail(latency: dict[str, Any] | None) -> str:
    if latency is None:
        return "-"
    middle, last = (latency[name] for name in ("p50", "p99"))
    return " / ".join(f"{one['value'] if isinstance(one, dict) else one:.1f}" for one in (middle, last))


_CELLS = {
    "ceilings": _ceiling,
    "kernels": _kernel,
    "equivalence": _equivalence,
    "end-to-end": _end_to_end,
    "transformers": _transformers,
    "trace": _trace,
}


def _row(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"
