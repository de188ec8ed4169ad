"""`vivace doctor`: what this machine can do, what was chosen and why, and what fits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from vivace.cli.options import ENGINE, takes
from vivace.cli.session import open_llm
from vivace.core.config import EngineConfig

if TYPE_CHECKING:
    from vivace.cli.examination import Section


@takes(config=ENGINE)
def doctor(
    config: EngineConfig,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Examine the machine and how a model runs on it."""
    from vivace.cli import examination

    report: list[Section] = []

    def tell(section: Section) -> None:
        report.append(section)
        if not as_json:
            _print(section)

    tell(examination.machine_section())
    llm = open_llm(config)
    loaded = llm.loaded
    tell(examination.device_section(loaded))
    measured = loaded.backend.measure_ceilings()
    tell(examination.ceilings_section(loaded.backend, measured))
    is_gpu = loaded.backend.name == "cuda"
    tell(examination.gpu_kernels_section(llm) if is_gpu else examination.kernels_section(loaded.backend))
    tell(examination.operations_section(loaded))
    tell(examination.choices_section(loaded))
    tell(examination.fit_section(loaded, measured))
    if as_json:
        print(json.dumps({section.title: _record(section) for section in report}))


def _print(section: Section) -> None:
    print(section.title)
    for row in section.rows:
        note = f"  ({row.note})" if row.note and row.value != "" else row.note
        print(f"  {row.name:26}{row.value}{note}")
    print(flush=True)


def _record(section: Section) -> dict[str, object]:
    return {row.name: {"value": row.value, "reason": row.note} if row.note else row.value for row in section.rows}
