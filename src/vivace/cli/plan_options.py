"""What `vivace plan` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]", help="A preset, config.json, directory, GGUF file or hub name; default: embedded."
    ),
]
HardwareOption = Annotated[
    str, typer.Option(help="Machines, with commas; `this` is the one you are on, `all` the whole table.")
]
WorkloadOption = Annotated[
    str | None,
    typer.Option(
        help="chat (the default), system-prompt, rag, long-prompt, long-answer, agent or uniform, as in vivace "
        "bench serve; or PROMPT:ANSWER[:CACHED] in tokens."
    ),
]
TraceOption = Annotated[
    Path | None,
    typer.Option(help="A published trace (Azure, BurstGPT, Mooncake, Qwen-Bailian), in place of --workload."),
]
ObjectivesOption = Annotated[
    list[str] | None, typer.Option(help="Objectives of a request in ms: ttft:500,tpot:50 (also itl, e2el).")
]
ObjectivePercentileOption = Annotated[
    float, typer.Option(help="Of 100 requests so many must keep every objective: 90, 95, 99.")
]
UsersOption = Annotated[
    int | None, typer.Option(help="Users who each wait for an answer before they ask again; default: 16.", min=1)
]
RateOption = Annotated[float | None, typer.Option(help="Requests a second, in place of --users.")]
QuantizationOption = Annotated[
    str | None, typer.Option(help="Weights to look at, with commas; default: what is common on each machine.")
]
KvCacheDtypeOption = Annotated[str, typer.Option(help="Keys and values, as in vivace serve.")]
MaxModelLenOption = Annotated[
    int | None, typer.Option(help="Context of a request; default: the model's, 8192 at most.", min=128)
]
MaxNumSeqsOption = Annotated[int, typer.Option(help="Sequences that run at once.", min=1)]
MaxNumBatchedTokensOption = Annotated[
    int | None, typer.Option(help="Tokens a step computes at most; default: 512 on processors, 2048 on GPUs.", min=1)
]
NumThreadsOption = Annotated[int | None, typer.Option(help="Threads on processors; default: all cores.", min=1)]
SpeculativeConfigOption = Annotated[
    str | None,
    typer.Option(help='As in vivace serve: {"method": "draft_model", "model": ..., "num_speculative_tokens": 4}.'),
]
AcceptanceOption = Annotated[
    float, typer.Option(help="Chance that a guess stands if those before it did, of --speculative-config.")
]
PriceOption = Annotated[list[str] | None, typer.Option(help="Price of a machine, as h100=2.5/h; may be repeated.")]
CalibrateOption = Annotated[
    bool, typer.Option("--calibrate", help="Measure this machine first, a minute or two; the result is kept.")
]
AsJSONOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
HTMLOption = Annotated[Path | None, typer.Option(help="Write one self-contained HTML page to this file.")]
